"""Reads the profile target of a dbt command, as dbt renders it. Does not connect to the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec
from dbt.config.profile import read_profile
from dbt.config.runtime import load_profile
from dbt.flags import set_flags
from dbt_common.clients.system import get_env
from dbt_common.context import set_invocation_context
from dbt_common.exceptions import DbtBaseException

from workers.contract.errors import DbtUsageError
from workers.engine.caller.env_file import load_env_file
from workers.engine.caller.invocation import parse_flags


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A target of a profile.

    Attributes:
        profile: name of the profile.
        name: name of the target.
        adapter: type of the adapter, such as ``duckdb``.
        credentials: rendered values under dbt's names (``database`` for ``dbname``), secrets included.
        file: content of profiles.yml, not rendered.
    """

    profile: str
    name: str
    adapter: str
    credentials: dict[str, Any]
    file: dict[str, Any]


def read_target(args: Sequence[str]) -> Target:
    """Return the target of a dbt command, in the working directory and environment of this process.

    Args:
        args: arguments of the command, without ``dbt``.

    Raises:
        DbtUsageError: dbt rejects the arguments, the project file or the profile.
    """
    try:
        load_env_file()
        set_invocation_context(get_env())
        _, flags = parse_flags(tuple(args))
        set_flags(flags)
        profile = load_profile(str(flags.PROJECT_DIR), flags.VARS, flags.PROFILE, flags.TARGET)
        file = read_profile(str(flags.PROFILES_DIR))
    except (DbtBaseException, click.ClickException, OSError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise DbtUsageError(" ".join(text.split())) from error
    return Target(
        profile=profile.profile_name,
        name=profile.target_name,
        adapter=profile.credentials.type,
        credentials=profile.credentials.to_dict(omit_none=True),
        file=file,
    )
