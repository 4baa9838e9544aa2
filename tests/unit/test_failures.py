"""Errors that dbt-relay itself reports."""

from __future__ import annotations

from workers.contract.errors import DbtTimeoutError, exception_of
from workers.runs import failures


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
