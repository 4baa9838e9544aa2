"""Time limits that a project gives its nodes: ``config: {meta: {dbt_relay: {time_limit: 600}}}``."""

from __future__ import annotations

from typing import Any

import msgspec
from dbt_common.exceptions import DbtRuntimeError

from workers.contract.errors import DbtUsageError
from workers.engine.interface import OwnLimits

META = "dbt_relay"


class TimeLimitError(DbtRuntimeError):
    """A node took longer than it may: raised where it executes, so that dbt lets it fail."""


def own_limits(node: Any) -> OwnLimits | None:
    """The limits that a node's ``meta`` gives it, or None.

    Raises:
        DbtUsageError: they are no limits.
    """
    config = getattr(node, "config", None)
    meta = getattr(config, "meta", None) or getattr(node, "meta", None) or {}
    if META not in meta:
        return None
    try:
        return msgspec.convert(meta[META], OwnLimits, strict=False)
    except msgspec.ValidationError as error:
        raise DbtUsageError(
            f"{node.unique_id} ({node.original_file_path}): its meta {META} is not understood: {error}. "
            f"It takes soft_time_limit and time_limit, in seconds: "
            f"`meta: {{{META}: {{soft_time_limit: 540, time_limit: 600}}}}`."
        ) from error
