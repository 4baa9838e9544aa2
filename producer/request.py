"""The request for a dbt command: what is submitted, and the caller's environment that goes with it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from producer.dbt_cli import options
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.project import PROFILES_FILE, profiles_dir, project_config, project_dir, target_path
from workers.contract.environment import (
    NAMES,
    allowed,
    encode_environment,
    encode_withheld,
    matching,
    names_noted,
    names_used,
    zone_name,
)
from workers.contract.folder_identity import folder_identity
from workers.contract.keys import new_run_id
from workers.contract.messages import Limits, RetryPolicy, RunRequest
from workers.contract.process_attributes import encode_process_attributes
from workers.contract.project_files import FILES, copy_of, encode_copy
from workers.contract.settings import Settings

_DBT_OPTIONS = "DBT_ENGINE_"
"""Prefix of environment variables that set dbt's options, also those of later releases (dbt.env_vars)."""


def new_request(
    invocation: Invocation,
    *,
    settings: Settings,
    runtime_dir: Path | None,
    cwd: Path,
    environ: Mapping[str, str],
    description: str = "",
    retry: RetryPolicy | None = None,
    limits: Limits | None = None,
    required_models: tuple[str, ...] = (),
) -> tuple[RunRequest, Path | None]:
    """Build the request for a command.

    Args:
        runtime_dir: private folder of the embedded stack that will execute it; None for a broker.
        limits: in place of those of `settings`.

    Returns:
        the request, and the file with the caller's environment where an embedded stack executes it.

    Raises:
        RelayError: the environment file cannot be written.
    """
    run_id = new_run_id()
    env = {} if runtime_dir else values_to_send(invocation, settings, cwd=cwd, environ=environ)
    request = RunRequest(
        run_id=run_id, args=tuple(invocation.args), command=invocation.command, cwd=str(cwd),
        project_dir=str(project_dir(invocation, cwd, environ)), env=env, retry=retry or RetryPolicy(),
        return_artifacts=runtime_dir is None, required_models=required_models,
        place=folder_identity(target_path(invocation, cwd, environ)),
        priority=settings.priority, limits=limits or _limits(settings),
        debug=bool(invocation.options.get("debug")),
        description=description,
        submitted_by=f"{socket.gethostname()}:{os.getpid()}", submitted_at=time.time(),
    )  # fmt: skip
    if runtime_dir is None:
        return request, None
    env_file = _write_environment(runtime_dir, run_id, environ)
    return msgspec.structs.replace(request, env_file=str(env_file)), env_file


def values_to_send(
    invocation: Invocation, settings: Settings, *, cwd: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Select the environment values that a run sends to workers without its caller's environment."""
    project = project_dir(invocation, cwd, environ)
    profiles = profiles_dir(invocation, cwd, environ) / PROFILES_FILE
    names = names_used([project, profiles]) | names_noted(environ) | options.variables()
    names |= {name for name in environ if name.startswith(_DBT_OPTIONS)} | matching(
        environ, settings.env_send
    )
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


def _limits(settings: Settings) -> Limits:
    return Limits(
        soft_time_limit=settings.node_soft_time_limit, time_limit=settings.node_time_limit,
        deadline=settings.run_deadline,
    )  # fmt: skip


def _write_environment(runtime_dir: Path, run_id: str, environ: Mapping[str, str]) -> Path:
    """Write the caller's environment, umask, limits and so on to a file that only this user can read."""
    raw = encode_environment({**environ, **encode_process_attributes()})
    path = runtime_dir / "env" / f"{run_id}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(raw)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unusable(path.parent, error) from error
    return path


def _unusable(folder: Path, error: OSError) -> Exception:
    from producer.embedded.errors import setup_error

    return setup_error(
        "runtime_dir_unusable",
        f"The embedded stack's folder {folder} cannot be written: {error.strerror}.",
        "Run the command again: where the folder is gone, a new stack is started. If a program that cleans "
        "temporary folders removed it, set DBT_RELAY_RUNTIME_DIR to a folder elsewhere.",
    )
