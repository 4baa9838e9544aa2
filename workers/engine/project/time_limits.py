"""Reads the time limits of nodes from a project: ``config: {meta: {dbt_relay: {time_limit: 600}}}``."""

from __future__ import annotations

from typing import Any

import msgspec
from dbt_common.exceptions import DbtRuntimeError

from workers.contract.errors import DbtUsageError
from workers.engine.interface import OwnLimits

META = "dbt_relay"


class TimeLimitError(DbtRuntimeError):
    """A node exceeded its time limit. Raised in the thread that executes it, so that dbt reports a failed node."""


def own_limits(node: Any) -> OwnLimits | None:
    """Return the time limits in a node's ``meta``, or None.

    Raises:
        DbtUsageError: ``meta`` has other fields or values than `OwnLimits`.
    """
    config = getattr(node, "config", None)
    meta = getattr(config, "meta", None) or getattr(node, "meta", None) or {}
    if META not in meta:
        return None
    try:
        return msgspec.convert(meta[META], OwnLimits, strict=False)
    except msgspec.ValidationError as error:
        raise DbtUsageError(
            f"{node.unique_id} ({node.original_file_path}): its meta {META} is not valid: {error}. "
            f"It accepts soft_time_limit and time_limit, in seconds: "
            f"`meta: {{{META}: {{soft_time_limit: 540, time_limit: 600}}}}`."
        ) from error
