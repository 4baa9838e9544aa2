"""Adapts the commands of ``dbt-relay verify`` to a copy of the project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from producer.dbt_cli.arguments import parse_invocation
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.project import (
    COMMANDS_WITHOUT_PROFILE,
    check_project,
    profiles_dir,
    project_dir,
    target_path,
)
from producer.dbt_cli.words import read_words
from producer.usage_errors import usage_error
from workers.contract.verify_job import VerifyCommand, VerifyJob

_REMOVED = frozenset({"project_dir", "profiles_dir", "log_path", "partial_parse_file_path"})
"""Options for which a copy has its own value."""

_PREFIXES = ("DBT_", "DBT_ENGINE_")


def job_of(
    commands: Sequence[Sequence[str]],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    measured: Sequence[str] = (),
    keep: bool = False,
) -> tuple[VerifyJob, dict[str, str]]:
    """Build the job of `workers.verify`, and its environment.

    Args:
        commands: dbt's arguments of each command.
        cwd: working directory: relative paths and the search for the project start there.
        measured: names of columns with measurements or random values.
        keep: whether the copies are kept.

    Raises:
        DbtUsageError: dbt would refuse a command, or it cannot be compared.
    """
    invocations = [parse_invocation(words, environ=environ, cwd=cwd) for words in commands]
    projects, profiles = set(), set()
    for invocation in invocations:
        _check_command(invocation)
        check_project(invocation, cwd=cwd, environ={**environ, "DBT_RELAY_BROKER_URL": ""})
        projects.add(project_dir(invocation, cwd, environ))
        profiles.add(profiles_dir(invocation, cwd, environ))
    if len(projects) > 1 or len(profiles) > 1:
        raise usage_error(
            "several_projects",
            "These commands use several projects or profiles: "
            f"{', '.join(str(each) for each in sorted(projects | profiles))}.",
            "Verify them one by one.",
        )
    (project,) = projects
    values = {**environ, "DBT_PROFILES_DIR": str(*profiles)}
    for name in ("PROFILES_DIR", "PROJECT_DIR", "LOG_PATH", "PARTIAL_PARSE_FILE_PATH"):
        for prefix in _PREFIXES:
            if f"{prefix}{name}" != "DBT_PROFILES_DIR":
                values.pop(f"{prefix}{name}", None)
    if any(f"{prefix}PROJECT_DIR" in environ for prefix in _PREFIXES):
        values["DBT_PROJECT_DIR"] = str(project)
    for invocation in invocations:
        for option, variable in invocation.environment.items():
            if option in _PATHS and variable in values:
                values[variable] = _in_a_copy(str(invocation.options[option]), project, cwd)
    job = VerifyJob(
        project_dir=str(project), measured=tuple(measured), keep=keep,
        commands=tuple(_command(each, project=project, cwd=cwd, environ=environ) for each in invocations),
    )  # fmt: skip
    return job, values


def own_environment(environ: Mapping[str, str], tuned: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the private stack's workers: without dbt-relay's settings, except its runtime folder.

    Args:
        environ: environment of the comparison.
        tuned: environment of this process.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("DBT_RELAY_")}
    kept.pop("REDIS_URL", None)
    kept["DO_NOT_TRACK"] = "1"  # as for the commands themselves
    folder = tuned.get("DBT_RELAY_RUNTIME_DIR")
    return {**kept, "DBT_RELAY_RUNTIME_DIR": folder} if folder else kept


_PATHS = frozenset({"state", "defer_state", "deprecated_state"})
"""Options whose relative paths start at the working directory."""


def _check_command(invocation: Invocation) -> None:
    if not invocation.command:
        raise usage_error(
            "no_dbt_command",
            f"verify runs dbt commands, and {' '.join(invocation.args)} is not one.",
            "For example: dbt-relay verify build",
        )
    if invocation.wants_help or invocation.wants_version:
        raise usage_error(
            "no_dbt_command",
            f"verify does not print help. Use: dbt-relay {' '.join(invocation.args)}",
        )
    if invocation.command == "init":
        raise usage_error("no_comparison", "`init` makes a new project: there is nothing to compare yet.")


def _command(
    invocation: Invocation, *, project: Path, cwd: Path, environ: Mapping[str, str]
) -> VerifyCommand:
    target = target_path(invocation, cwd, environ)
    if not target.is_relative_to(project):
        raise usage_error(
            "target_path_outside",
            f"The target path {target} is outside the project: both sides would write the same files.",
            "Name one inside the project with --target-path.",
        )
    return VerifyCommand(
        args=tuple(_arguments(invocation, project=project, cwd=cwd)),
        target_path=target.relative_to(project).as_posix(),
        reads_profile=invocation.command not in COMMANDS_WITHOUT_PROFILE,
    )


def _arguments(invocation: Invocation, *, project: Path, cwd: Path) -> list[str]:
    """Rewrite the arguments for a process whose working directory is a copy of the project."""
    words = list(invocation.args)
    given = [each for level in read_words(invocation.args) for each in level.given]
    for each in sorted(given, key=lambda one: one.start, reverse=True):
        name, value = each.option.name, each.value
        if name in _REMOVED:
            words[each.start : each.end] = []
        elif name in _PATHS:
            words[each.start : each.end] = [max(each.option.opts, key=len), _in_a_copy(value, project, cwd)]
        elif name == "target_path":
            path = Path(value)
            inside = path.relative_to(project) if path.is_absolute() else path
            words[each.start : each.end] = ["--target-path", str(inside)]
    return words


def _in_a_copy(value: Any, project: Path, cwd: Path) -> str:
    """Convert a path: relative to the copy where it is inside the project, else absolute."""
    path = Path(os.path.normpath(cwd / str(value)))
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
