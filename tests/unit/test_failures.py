"""Errors that dbt-relay itself reports."""

from __future__ import annotations

import pytest

from workers.contract.errors import DbtTimeoutError, exception_of
from workers.ledger.records import Claim, Death
from workers.runs import failures

GB = 2**30


def test_error_of_passed_deadline_lists_finished_and_unfinished_nodes() -> None:
    error = failures.deadline_passed(
        "its deadline of 60 s has passed", "RUN", ["a", "b", "c"], {"a", "other"}
    )
    assert isinstance(exception_of(error), DbtTimeoutError)
    assert error.message == (
        "the run was cancelled: its deadline of 60 s has passed; 1 of 3 nodes had finished, 2 had not"
    )
    assert error.detail == "finished: a\nnot finished: b, c"
    assert "dbt-relay retry RUN" in error.suggested_fix


def test_error_of_passed_deadline_without_plan_lists_no_nodes() -> None:
    error = failures.deadline_passed("its deadline of 1 s has passed", "RUN", (), ())
    assert (error.message, error.detail) == ("the run was cancelled: its deadline of 1 s has passed", "")


def lost(died: Death | None) -> tuple[str, str]:
    claim = Claim(
        run_id="r", step="model.p.a", fence=4, tries=4, losses=3, index=1, skip=False, cause="", stopping=False,
        died=died,
    )  # fmt: skip
    error = failures.worker_lost(claim)
    return error.message, error.suggested_fix


@pytest.mark.parametrize(
    ("died", "message", "fix"),
    [
        (None, "it is not tried again", "stopped responding"),
        (Death(code=-9, peak=4000 * 2**20, limit=4 * GB), "SIGKILL; it was seen to use 3.9 GB of the 4.0 GB",
         "Memory ran out: give its worker more"),
        (Death(code=-9, peak=GB // 2, limit=4 * GB, oom=True), "the kernel killed a process at that time",
         "Memory ran out: "),
        (Death(code=-9, peak=GB // 2, limit=4 * GB), "512 MB of the 4.0 GB", "It was killed"),
        (Death(code=-11), "The last ended with SIGSEGV", "PYTHONFAULTHANDLER"),
        (Death(code=-250), "signal 250", "native code"),
        (Death(code=0), "exit status 0", "os._exit"),
    ],
)  # fmt: skip
def test_error_of_a_lost_worker_names_the_cause_of_death_and_a_fix(
    died: Death | None, message: str, fix: str
) -> None:
    text, advice = lost(died)
    assert text.startswith("model.p.a ended 3 worker processes; it is not tried again")
    assert message in text
    assert fix in advice
    assert "DBT_RELAY_MAX_LOSSES" in advice
