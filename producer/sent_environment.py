"""What a remote worker is told of its caller: environment values, names of the others, and the project's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from producer.dbt_cli import arguments, options
from producer.dbt_cli.arguments import Invocation
from producer.dbt_cli.project import PROFILES_FILE, project_config
from workers.contract.environment import (
    NAMES,
    allowed,
    encode_withheld,
    matching,
    names_noted,
    names_used,
    zone_name,
)
from workers.contract.project_files import FILES, copy_of, encode_copy
from workers.contract.settings import Settings

_DBTS_OWN = "DBT_ENGINE_"
"""Names with this beginning are dbt's own options, those of later releases too (dbt.env_vars)."""


def values_to_send(
    invocation: Invocation, settings: Settings, *, cwd: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment values that travel with a run to a worker that does not have its caller's environment."""
    project = arguments.project_dir(invocation, cwd, environ)
    profiles = arguments.profiles_dir(invocation, cwd, environ) / PROFILES_FILE
    names = names_used([project, profiles]) | names_noted(environ) | options.variables()
    names |= {name for name in environ if name.startswith(_DBTS_OWN)} | matching(environ, settings.env_send)
    given = {name: environ[name] for name in names if name in environ}
    zone = zone_name(environ)
    if zone is not None:
        given["TZ"] = zone
    values = allowed(given, settings.env_deny)
    values[NAMES] = encode_withheld(environ, values, settings.env_deny)
    if settings.project_check == "on" and invocation.command not in {"init", "debug"}:
        config = project_config(project)
        if config is not None:
            values[FILES] = encode_copy(copy_of(str(project), config))
    return values
