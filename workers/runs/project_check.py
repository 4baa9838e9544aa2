"""Whether this worker has the project of a run: the folder, and the same files as the run's caller."""

from __future__ import annotations

import os
from collections.abc import Mapping

from workers.app import settings
from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.contract.messages import RunRequest
from workers.contract.project_files import FILES, PROJECT_FILE, decode_copy, differences
from workers.engine.engine import CommandFailedError
from workers.engine.interface import Finished, RunSpec
from workers.runs.runtime import Run

_WITHOUT_PROJECT = frozenset({"init", "debug"})
"""Commands that make a project, or report by themselves what is wrong with it."""

_WITHOUT_PACKAGES = frozenset({"clean", "deps"})
"""Commands that remove or install packages."""

_SHOWN = 10


def check_project(run: Run, worker: str) -> None:
    """See to it that this worker executes the project that the caller of a run means.

    Args:
        worker: what this worker is called, for the error.

    Raises:
        CommandFailedError: the project is not here, or is another one. The run ends with exit code 2.
    """
    request, spec = run.request, run.spec
    if run.checked or request.first_word in _WITHOUT_PROJECT:
        return
    error = _not_here(request, spec, worker)
    if error is None and settings.project_check == "on":
        error = _another(request, spec, worker)
    if error is not None:
        raise CommandFailedError(Finished(return_code=2, error=error))
    run.checked = True


def _not_here(request: RunRequest, spec: RunSpec, worker: str) -> ErrorInfo | None:
    root = spec.project_dir
    elsewhere = (
        f"Mount or copy the project to {request.project_dir} on the machine of the worker, or set DBT_RELAY_PROJECT_DIR "
        "for the worker to the folder that has it there, and restart the worker."
    )
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        return _error(
            "project_not_found", f"The folder of the project, {root}, {what} on worker {worker}.", elsewhere
        )
    try:
        entries = os.listdir(root)
    except OSError as error:
        text = f"Worker {worker} cannot read the folder of the project, {root}: {error.strerror}."
        return _error("project_not_found", text, "Let the user of the worker read the folder.")
    if PROJECT_FILE not in entries:
        what = "has no dbt_project.yml" if entries else "is empty (is a mount missing?)"
        return _error(
            "project_not_found", f"The folder of the project, {root}, {what} on worker {worker}.", elsewhere
        )
    return _no_profiles(spec, worker)


def _no_profiles(spec: RunSpec, worker: str) -> ErrorInfo | None:
    folder = option(spec.args, "--profiles-dir") or spec.env.get("DBT_PROFILES_DIR")
    if not folder or os.path.isdir(os.path.join(spec.cwd, folder)):
        return None
    return _error(
        "profiles_not_found",
        f"The folder of profiles.yml, {folder}, does not exist on worker {worker}.",
        "Put profiles.yml in that folder on the machine of the worker, or keep it in the folder of the project and "
        "leave out --profiles-dir and DBT_PROFILES_DIR.",
    )


def _another(request: RunRequest, spec: RunSpec, worker: str) -> ErrorInfo | None:
    copy = decode_copy(request.env.get(FILES, ""))
    if copy is None:
        return None
    found = differences(spec.project_dir, copy, packages=request.first_word not in _WITHOUT_PACKAGES)
    if not found:
        return None
    packages = [name for name in found if name.startswith(f"{copy.packages}/")]
    install = " Run `dbt-relay deps` or install the same packages in the image." if packages else ""
    return _error(
        "project_mismatch",
        f"The project in {spec.project_dir} on worker {worker} is not the one of the caller: {_listed(found)}.",
        "Deploy the same version of the project where the command is started and on every worker."
        f"{install} Where the copies differ on purpose, set DBT_RELAY_PROJECT_CHECK=off for the workers.",
    )


def _listed(found: Mapping[str, str]) -> str:
    shown = [f"{name} ({what})" for name, what in list(found.items())[:_SHOWN]]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _error(code: str, message: str, fix: str) -> ErrorInfo:
    category = Category.CONFIGURATION
    return ErrorInfo(
        code=code, category=category.value, error_class=CLASS_OF_CATEGORY[category].__name__, message=message,
        suggested_fix=fix,
    )  # fmt: skip


def option(args: tuple[str, ...], name: str) -> str | None:
    """The value of an option in dbt's arguments, the last one as click takes it; None where it is not given."""
    value = None
    for position, arg in enumerate(args):
        if arg == name and position + 1 < len(args):
            value = args[position + 1]
        elif arg.startswith(f"{name}="):
            value = arg.partition("=")[2]
    return value
