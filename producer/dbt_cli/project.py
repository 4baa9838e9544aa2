"""Finds the project, its profile and its artifacts as dbt does, and checks them before a command is submitted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.broker import configured_broker
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import command_names
from producer.dbt_cli.vars import load_yaml
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.errors import DbtUsageError

PROJECT_FILE = "dbt_project.yml"
PROFILES_FILE = "profiles.yml"

COMMANDS_WITHOUT_PROFILE = frozenset({"clean", "deps", "init"})
"""Commands of dbt.cli.main without the decorator ``requires.profile``."""

_ENV_VAR = re.compile(
    r"""\s*\{\{-?\s*env_var\(\s*(['"])(?P<name>\w+)\1\s*(?:,\s*(['"])(?P<default>[^'"]*)\3\s*)?\)\s*-?\}\}\s*"""
)


@dataclass(frozen=True)
class Project:
    """A project that was found and can be read.

    Attributes:
        directory: absolute path of the folder with ``dbt_project.yml``.
        config: content of that file, not rendered.
        profile: name of the profile; None where only dbt can render it, or the command needs none.
        target: name of the target; None as for `profile`.
    """

    directory: Path
    config: Mapping[str, Any]
    profile: str | None = None
    target: str | None = None


def project_dir(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> Path:  # noqa: ARG001
    """Return the absolute path of the project: ``--project-dir`` or ``DBT_PROJECT_DIR``, else the nearest folder from
    `cwd` upwards with a ``dbt_project.yml``, else `cwd` (dbt.cli.resolvers.default_project_dir)."""
    given = invocation.options.get("project_dir")
    if given is not None:
        return _absolute(cwd, given)
    for folder in (cwd, *cwd.parents):
        if (folder / PROJECT_FILE).exists():
            return _absolute(folder, ".")
    return _absolute(cwd, ".")


def profiles_dir(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> Path:
    """Return the absolute path of the folder of ``profiles.yml``: ``--profiles-dir`` or ``DBT_PROFILES_DIR``, else
    `cwd` if it has the file, else ``~/.dbt`` (dbt.cli.resolvers.default_profiles_dir)."""
    given = invocation.options.get("profiles_dir")
    if given is not None:
        return _absolute(cwd, given)
    if (cwd / PROFILES_FILE).exists():
        return _absolute(cwd, ".")
    home = environ.get("HOME") or str(Path.home())
    return _absolute(Path(home), ".dbt")


def target_path(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> Path:
    """Return the absolute path of the folder for artifacts: ``--target-path`` or ``DBT_TARGET_PATH``, else
    ``target-path`` of the project file, else ``target``; relative to the project (dbt.config.project)."""
    directory = project_dir(invocation, cwd, environ)
    given = invocation.options.get("target_path")
    if given is None:
        try:
            given = _read_project(directory, cwd).get("target-path")
        except DbtUsageError:
            given = None
        given = render(given, environ) if isinstance(given, str) else None
    return _absolute(directory, given or "target")


def log_folder(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> Path:
    """Return the absolute path of the folder of ``dbt.log``: ``--log-path`` or ``DBT_LOG_PATH``, else ``log-path`` of
    the project file, not rendered and relative to the project, else ``logs`` (dbt.cli.resolvers.default_log_path)."""
    given = invocation.options.get("log_path")
    if given is not None:
        return _absolute(cwd, given)
    directory = project_dir(invocation, cwd, environ)
    try:
        config = _read_project(directory, cwd)
    except DbtUsageError:
        return _absolute(cwd, "logs")
    return _absolute(directory, str(config.get("log-path") or "logs"))


def project_flags(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Return ``flags`` of the project file; empty where it cannot be read."""
    try:
        flags = _read_project(project_dir(invocation, cwd, environ), cwd).get("flags")
    except DbtUsageError:
        flags = None
    return flags if isinstance(flags, dict) else {}


def render(text: str, environ: Mapping[str, str]) -> str | None:
    """Render a text that is one ``{{ env_var('NAME', 'default') }}``, or has no Jinja; None where only dbt can."""
    found = _ENV_VAR.fullmatch(text)
    if found:
        return environ.get(found["name"], found["default"])
    return None if "{{" in text or "{%" in text else text


def check_project(invocation: Invocation, *, cwd: Path, environ: Mapping[str, str]) -> Project:
    """Find the project of a command, and check what dbt would check first.

    Does not check for ``debug``, which reports such problems itself, nor for ``init``.

    Raises:
        DbtUsageError: there is no project or profile; or the command needs a terminal, or never ends. The text
            has a fix.
    """
    _check_unattended(invocation)
    directory = project_dir(invocation, cwd, environ)
    if invocation.command in ("debug", "init") or invocation.command not in command_names():
        return Project(directory, {})
    config = _read_project(directory, cwd)
    if invocation.command in COMMANDS_WITHOUT_PROFILE:
        return Project(directory, config)
    profile = invocation.options.get("profile")
    if profile is None:
        profile = _profile_of_project(config, directory, environ)
    if profile is None:
        return Project(directory, config)
    target = _check_profile(
        profile, invocation, profiles_dir(invocation, cwd, environ) / PROFILES_FILE, environ
    )
    return Project(directory, config, profile, target)


def _check_unattended(invocation: Invocation) -> None:
    options = invocation.options
    if invocation.command == "docs serve":
        raise usage_error(
            "needs_terminal",
            "`docs serve` is a web server that never ends: workers do not run it.",
            "Generate the pages with `docs generate --static`, and open target/static_index.html.",
        )
    if invocation.command == "init" and not (
        options.get("skip_profile_setup") and options.get("project_name")
    ):
        raise usage_error(
            "needs_terminal",
            "`init` asks questions, and a worker has no terminal.",
            "Write `init --skip-profile-setup my_project`, or run dbt itself.",
        )


def _read_project(directory: Path, cwd: Path) -> Mapping[str, Any]:
    path = directory / PROJECT_FILE
    if not path.is_file():
        hint = "Run from the folder of your dbt project, or name it with --project-dir."
        for folder in sorted(cwd.glob(f"*/{PROJECT_FILE}")):
            hint = f"There is one in ./{folder.parent.name}: add --project-dir {folder.parent.name}"
            break
        raise usage_error("no_project", f"No {PROJECT_FILE} found at expected path {path}", hint)
    return _read_mapping(path, "invalid_project_file")


def project_config(directory: Path) -> Mapping[str, Any] | None:
    """Return the content of a folder's ``dbt_project.yml``, not rendered; None where it cannot be read."""
    try:
        return _read_project(directory, directory)
    except DbtUsageError:
        return None


def _read_mapping(path: Path, code: str) -> Mapping[str, Any]:
    try:
        value = load_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error(code, f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise usage_error(code, f"{path} is not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise usage_error(
            code, f"{path} does not hold a mapping" + (": it is empty" if value is None else "")
        )
    return value


def _profile_of_project(config: Mapping[str, Any], directory: Path, environ: Mapping[str, str]) -> str | None:
    name = config.get("profile")
    if name is None:
        raise usage_error(
            "no_profile_named",
            f"{directory / PROJECT_FILE} names no profile.",
            "Add a line such as `profile: my_profile` to it, or choose one with --profile.",
        )
    return render(name, environ) if isinstance(name, str) else str(name)


def _check_profile(
    profile: str, invocation: Invocation, path: Path, environ: Mapping[str, str]
) -> str | None:
    """Return the name of the target, where it needs no rendering. Raises DbtUsageError for an unknown one."""
    if not path.is_file():
        if configured_broker(environ):
            return None  # the workers have their own profiles
        raise usage_error(
            "no_profiles_file",
            f"Could not find profile named {profile!r}: there is no {path}",
            "Create it, or name another folder with --profiles-dir or DBT_PROFILES_DIR.",
        )
    profiles = _read_mapping(path, "invalid_profiles_file")
    names = [str(name) for name in profiles if name != "config"]
    if profile not in profiles:
        raise usage_error(
            "no_such_profile",
            f"Could not find profile named {profile!r} in {path}.{did_you_mean(profile, names)}",
            f"It has: {', '.join(names) or 'none'}. Choose one with --profile, or in {PROJECT_FILE}.",
        )
    body = profiles[profile]
    outputs = body.get("outputs") if isinstance(body, dict) else None
    if not isinstance(outputs, dict) or not outputs:
        raise usage_error(
            "invalid_profiles_file",
            f"outputs not specified in profile {profile!r} of {path}",
            "A profile has `target: dev` and `outputs:` with a connection named dev.",
        )
    target = invocation.options.get("target")
    if target is None:
        raw = body.get("target", "default")
        target = render(raw, environ) if isinstance(raw, str) else str(raw)
    if target is None:
        return None
    if target not in outputs:
        known = [str(name) for name in outputs]
        raise usage_error(
            "no_such_target",
            f"The profile {profile!r} of {path} does not have a target named {target!r}."
            f"{did_you_mean(target, known)}",
            f"The valid target names for this profile are: {', '.join(known)}.",
        )
    return str(target)


def _absolute(base: Path, path: str) -> Path:
    """Join the paths, without ``..``. Symbolic links are not resolved: dbt uses os.path.normpath, too."""
    return Path(os.path.normpath(base.absolute() / path))
