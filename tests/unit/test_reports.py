"""Results that dbt-relay makes by hand."""

from __future__ import annotations

from workers import reports
from workers.contract.errors import DbtTimeoutError, exception_of


def test_a_late_run_says_what_ran_and_what_did_not() -> None:
    error = reports.late("its deadline of 60 s has passed", "RUN", ["a", "b", "c"], {"a", "other"})
    assert isinstance(exception_of(error), DbtTimeoutError)
    assert error.message == (
        "the run was cancelled: its deadline of 60 s has passed; 1 of 3 nodes had finished, 2 had not"
    )
    assert error.detail == "finished: a\nnot finished: b, c"
    assert "dbt-relay retry RUN" in error.suggested_fix


def test_a_late_run_that_was_not_planned_has_no_nodes_to_count() -> None:
    error = reports.late("its deadline of 1 s has passed", "RUN", (), ())
    assert (error.message, error.detail) == ("the run was cancelled: its deadline of 1 s has passed", "")
