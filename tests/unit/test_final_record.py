"""The final record of a run."""

from __future__ import annotations

import msgspec
import pytest

from workers.contract.results import Attempt
from workers.contract.run_store import FinalRecord
from workers.engine.interface import Finished
from workers.runs.final_record import make_final_record, repetition_warnings


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
def test_hooks_and_commands_that_may_have_run_twice_have_a_warning(
    word: str, hooks: tuple[str, ...], attempts: list[Attempt], warned: dict[str, str]
) -> None:
    warnings = repetition_warnings(word, with_hooks(*hooks), attempts)
    assert warnings.keys() == warned.keys()
    for step, why in warned.items():
        assert why in warnings[step]
    final = msgspec.json.decode(
        make_final_record(with_hooks(*hooks), [], attempts, warnings), type=FinalRecord
    )
    assert final.warnings == list(warnings.values())
