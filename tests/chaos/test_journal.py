"""The checks of the journal find violations."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.journal import Absence, Execution, Journal, at_once, committed_twice, written_late

FOREVER = float("inf")


def executed(pid: int, entered: float, left: float | None, *, written: float | None = None) -> Execution:
    return Execution(
        "run", "model.p.a", 1, pid, entered, left, "ok", answered=[entered + 0.1],
        written=[] if written is None else [written],
    )  # fmt: skip


def test_two_running_processes_at_once_are_found() -> None:
    assert at_once([executed(1, 0, 5), executed(2, 4, 6)], {}, ended=10)
    assert at_once([executed(1, 0, None), executed(2, 4, 6)], {}, ended=10)


def test_executions_one_after_the_other_are_accepted() -> None:
    assert not at_once([executed(1, 0, 4), executed(2, 4, 6)], {}, ended=10)
    assert not at_once([executed(1, 0, 4), executed(1, 3, 6)], {}, ended=10)


def test_dead_and_stopped_processes_do_not_count() -> None:
    tries = [executed(1, 0, None), executed(2, 4, 6)]
    assert not at_once(tries, {1: [Absence(3, FOREVER)]}, ended=10)
    assert not at_once(tries, {1: [Absence(3, 5)]}, ended=10)
    assert at_once(tries, {1: [Absence(5, FOREVER)]}, ended=10)
    assert at_once([executed(1, 2, None), executed(2, 4, 6)], {1: [Absence(0, 1)]}, ended=10)


def test_step_may_be_lost_between_claim_and_start() -> None:
    tries = [executed(1, 5, 6), executed(2, 5.5, 7)]
    stopped = {1: [Absence(1, 4)]}
    assert at_once(tries, stopped, ended=10)
    tries[0].asked = 4.5
    assert at_once(tries, stopped, ended=10), "it claimed the step after it was continued"
    tries[0].asked = 0.5
    assert not at_once(tries, stopped, ended=10)


def test_journal_has_the_time_of_the_claim(tmp_path: Path) -> None:
    step = {"run": "r", "step": "model.p.a", "attempt": 1}
    entries = [
        {"pid": 1, "at": 1, "what": "asks", "run": "r"},
        {"pid": 1, "at": 2, "what": "asks", "run": "r"},
        {"pid": 1, "at": 3, "what": "enter", **step},
        {"pid": 1, "at": 4, "what": "leave", "how": "ok"},
    ]
    (tmp_path / "1").write_text("".join(json.dumps(each) + "\n" for each in entries))
    (execution,) = Journal(tmp_path).executions("r")
    assert (execution.asked, execution.entered) == (2, 3)


def test_write_after_the_start_of_the_next_execution_is_found() -> None:
    assert written_late([executed(1, 0, 5, written=4.5), executed(2, 4, 6)])
    assert not written_late([executed(1, 0, 5, written=3.5), executed(2, 4, 6)])
    assert not written_late([executed(1, 0, 5), executed(2, 4, 6, written=5.5)])


def test_late_write_is_accepted_if_the_next_execution_never_used_the_warehouse() -> None:
    other = executed(2, 4, 6)
    other.answered.clear()
    assert not written_late([executed(1, 0, 5, written=4.5), other])


def test_steps_that_ran_again_after_a_commit_are_found() -> None:
    assert committed_twice([executed(1, 0, 5, written=4), executed(2, 6, 7, written=7)]) == {"model.p.a"}
    assert not committed_twice([executed(1, 0, 5), executed(2, 6, 7, written=7)])


def test_unanswered_commit_counts_as_a_commit(tmp_path: Path) -> None:
    step = {"run": "r", "step": "model.p.a", "attempt": 1}
    entries: list[dict[str, object]] = [
        {"pid": 1, "at": 1, "what": "enter", **step},
        {"pid": 1, "at": 2, "what": "sent", "word": "commit", "writes": True},
        {"pid": 2, "at": 3, "what": "enter", **step},
        {"pid": 2, "at": 4, "what": "leave", "how": "ok"},
    ]

    def repeated() -> set[str]:
        return committed_twice(Journal(tmp_path).executions("r"))

    def write(lines: list[dict[str, object]]) -> None:
        (tmp_path / "all").write_text("".join(json.dumps(each) + "\n" for each in lines))

    write(entries)
    assert repeated() == {"model.p.a"}
    write(
        [
            *entries[:2],
            {"pid": 1, "at": 2.5, "what": "failed", "word": "commit", "how": "Error"},
            *entries[2:],
        ]
    )
    assert repeated() == set()
