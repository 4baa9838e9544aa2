"""Artifacts that a worker returns to a caller on another machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.contract.folder_identity import folder_identity
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.runs.artifacts import return_artifacts
from workers.runs.run import spec_of


@pytest.mark.parametrize(
    ("named", "returned"), [("target", []), ("elsewhere", ["manifest.json"]), ("", ["manifest.json"])]
)
def test_artifacts_are_returned_unless_caller_has_the_same_target_folder(
    tmp_path: Path, named: str, returned: list[str]
) -> None:
    for folder in ("target", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "target" / "manifest.json").write_text("{}")
    os.symlink(tmp_path / "target", tmp_path / "other name")
    request = RunRequest(
        run_id=new_run_id(), args=("run",), cwd=str(tmp_path), project_dir=str(tmp_path),
        place=folder_identity(tmp_path / named) if named else "",
    )  # fmt: skip
    stored: list[str] = []
    ledger: Any = SimpleNamespace(store_artifact=lambda _run, name, _packed: stored.append(name))
    spec = spec_of(request, invocation_id="", started_at=time.time() - 60)
    for target in ("", str(tmp_path / "target"), str(tmp_path / "other name")):
        stored.clear()
        return_artifacts(ledger, request, spec, target)
        assert stored == returned


def test_a_folder_that_is_not_there_has_no_place(tmp_path: Path) -> None:
    assert folder_identity(tmp_path / "absent") == ""
    assert folder_identity(tmp_path) == folder_identity(str(tmp_path)) != ""
