"""Paths of a run on a worker that has the project in another folder than the caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.runs.local_paths import paths_here


def request_of(*args: str, env: dict[str, str] | None = None, **more: str) -> RunRequest:
    given = {"cwd": "/callers", "project_dir": "/callers/shop", **more}
    return RunRequest(run_id=new_run_id(), args=("run", *args), env=env or {}, **given)


@pytest.mark.parametrize(
    ("given", "here"),
    [
        (("--project-dir", "shop"), ("--project-dir", "/w/shop")),
        (("--project-dir=/callers/shop",), ("--project-dir=/w/shop",)),
        (("--profiles-dir", "shop"), ("--profiles-dir", "/w/shop")),
        (("--profiles-dir=/callers/shop/connections",), ("--profiles-dir=/w/shop/connections",)),
        (("--state", "shop/../shop/target"), ("--state", "/w/shop/target")),
        (("--profiles-dir", "/etc/dbt"), ("--profiles-dir", "/etc/dbt")),
        (("--target-path", "/callers/shop2/target"), ("--target-path", "/callers/shop2/target")),
        (("--select", "/callers/shop"), ("--select", "/callers/shop")),
        (("--state",), ("--state",)),
    ],
)
def test_options_name_the_same_folders_in_the_workers_project(
    given: tuple[str, ...], here: tuple[str, ...]
) -> None:
    assert paths_here(request_of(*given), {}, "/w/shop").args == ("run", *here)


def test_environment_names_the_same_folders_in_the_workers_project() -> None:
    sent = {"DBT_PROFILES_DIR": "/callers/shop", "DBT_ENGINE_LOG_PATH": "shop/logs", "PLACE": "/callers/shop"}
    found = paths_here(request_of(env=sent), {"DBT_STATE": "/callers/shop", **sent}, "/w/shop")
    assert found.env == {
        "DBT_STATE": "/callers/shop",  # the worker's own
        "DBT_PROFILES_DIR": "/w/shop", "DBT_ENGINE_LOG_PATH": "/w/shop/logs", "PLACE": "/callers/shop",
    }  # fmt: skip
    assert (found.cwd, found.project_dir) == ("/w/shop", "/w/shop")


def test_paths_stay_the_same_where_the_callers_project_exists(tmp_path: Path) -> None:
    request = request_of("--profiles-dir", str(tmp_path), project_dir=str(tmp_path))
    for mapped in ("", "/w/shop"):
        assert paths_here(request, {}, mapped).args == request.args
