"""Results that dbt-relay makes by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from workers.contract.errors import DbtTimeoutError, exception_of
from workers.contract.folder_identity import folder_identity
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.contract.results import Attempt
from workers.contract.run_store import FinalRecord
from workers.engine.interface import Finished
from workers.runs import final_record
from workers.runs.runtime import spec_of


def test_a_late_run_says_what_ran_and_what_did_not() -> None:
    error = final_record.late("its deadline of 60 s has passed", "RUN", ["a", "b", "c"], {"a", "other"})
    assert isinstance(exception_of(error), DbtTimeoutError)
    assert error.message == (
        "the run was cancelled: its deadline of 60 s has passed; 1 of 3 nodes had finished, 2 had not"
    )
    assert error.detail == "finished: a\nnot finished: b, c"
    assert "dbt-relay retry RUN" in error.suggested_fix


def test_a_late_run_that_was_not_planned_has_no_nodes_to_count() -> None:
    error = final_record.late("its deadline of 1 s has passed", "RUN", (), ())
    assert (error.message, error.detail) == ("the run was cancelled: its deadline of 1 s has passed", "")


@pytest.mark.parametrize(
    ("named", "returned"), [("target", []), ("elsewhere", ["manifest.json"]), ("", ["manifest.json"])]
)
def test_artifacts_travel_but_to_a_caller_who_has_the_same_target_folder(
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
        final_record.return_artifacts(ledger, request, spec, target)
        assert stored == returned


def attempt(step: str, number: int, status: str = "success") -> Attempt:
    return Attempt(step=step, number=number, worker="h:1", started_at=1.0, finished_at=2.0, status=status)


def with_hooks(*names: str) -> Finished:
    results = [{"unique_id": f"operation.p.p-{name}-0", "status": "success"} for name in names]
    return Finished(return_code=0, run_results={"results": results})


BOTH = ("on-run-start", "on-run-end")
LOST = "an earlier execution was lost"


@pytest.mark.parametrize(
    ("word", "hooks", "attempts", "warned"),
    [
        ("run", BOTH, [attempt("@start", 1), attempt("@close", 1)], {}),
        ("run", BOTH, [attempt("@start", 1), attempt("@close", 2)], {"@close": LOST}),
        ("run", BOTH, [attempt("@start", 3), attempt("@close", 1)], {"@start": LOST}),
        ("run", (), [attempt("@start", 2), attempt("@close", 2)], {}),
        ("run", BOTH[:1], [attempt("@start", 1), attempt("@close", 2)], {}),
        # it could not reach the warehouse, so that no hook ran
        ("run", BOTH, [attempt("@start", 1, "error"), attempt("@start", 2), attempt("@close", 1)], {}),
        (
            "run",
            BOTH,
            [attempt("@start", 1), attempt("@close", 1, "handed back"), attempt("@close", 2)],
            {"@close": "an earlier execution was ended because its worker was stopping"},
        ),
        ("run", BOTH, [attempt("@plan", 2), attempt("@start", 1), attempt("@close", 1)], {}),
        ("build", BOTH, [attempt("@plan", 2)], {"@plan": LOST}),  # executed whole
        ("run-operation", (), [attempt("@command", 2)], {"@command": LOST}),
        ("run-operation", (), [attempt("@command", 1)], {}),
        ("docs", (), [attempt("@command", 2)], {}),
    ],
)
def test_hooks_and_commands_that_may_have_run_twice_are_warned_of(
    word: str, hooks: tuple[str, ...], attempts: list[Attempt], warned: dict[str, str]
) -> None:
    warnings = final_record.repetitions(word, with_hooks(*hooks), attempts)
    assert warnings.keys() == warned.keys()
    for step, why in warned.items():
        assert why in warnings[step]
    final = msgspec.json.decode(
        final_record.final_of(with_hooks(*hooks), [], attempts, warnings), type=FinalRecord
    )
    assert final.warnings == list(warnings.values())


def test_a_folder_that_is_not_there_has_no_place(tmp_path: Path) -> None:
    assert folder_identity(tmp_path / "absent") == ""
    assert folder_identity(tmp_path) == folder_identity(str(tmp_path)) != ""
