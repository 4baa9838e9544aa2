"""Translates the paths of a run for a worker that has the project in another folder than the caller."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from workers.contract.messages import RunRequest

_OPTIONS = ("--project-dir", "--profiles-dir", "--target-path", "--log-path", "--state", "--defer-state")
_VARIABLES = tuple(
    f"{prefix}{option[2:].replace('-', '_').upper()}"
    for prefix in ("DBT_", "DBT_ENGINE_")
    for option in _OPTIONS
)


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of a run on this machine (`engine.interface.RunSpec`)."""

    args: tuple[str, ...]
    cwd: str
    project_dir: str
    env: Mapping[str, str]


def paths_here(request: RunRequest, env: Mapping[str, str], mapped: str) -> Paths:
    """The paths of a run on this machine.

    Args:
        env: the environment that dbt is to see.
        mapped: the folder of the project on this machine (``DBT_RELAY_PROJECT_DIR``); empty: the caller's. It is used
            only where the caller's folder does not exist.
    """
    if not mapped or os.path.isdir(request.project_dir):
        return Paths(args=request.args, cwd=request.cwd, project_dir=request.project_dir, env=env)

    def here(path: str) -> str:
        """A path inside of the caller's project, in this worker's project. Other paths stay the same."""
        absolute = os.path.normpath(os.path.join(request.cwd, path))
        within = os.path.relpath(absolute, request.project_dir)
        if within == ".":
            return mapped
        return path if within.startswith("..") else os.path.join(mapped, within)

    args = list(request.args)
    for position, arg in enumerate(args):
        name, given, value = arg.partition("=")
        if name not in _OPTIONS:
            continue
        if given:
            args[position] = f"{name}={here(value)}"
        elif position + 1 < len(args):
            args[position + 1] = here(args[position + 1])
    changed = {name: here(request.env[name]) for name in _VARIABLES if request.env.get(name)}
    return Paths(args=tuple(args), cwd=mapped, project_dir=mapped, env={**env, **changed})
