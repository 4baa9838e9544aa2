"""The judge of the trials can convict."""

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


def test_two_living_processes_at_once_are_found() -> None:
    assert at_once([executed(1, 0, 5), executed(2, 4, 6)], {}, ended=10)
    assert at_once([executed(1, 0, None), executed(2, 4, 6)], {}, ended=10)


def test_one_after_the_other_is_right() -> None:
    assert not at_once([executed(1, 0, 4), executed(2, 4, 6)], {}, ended=10)
    assert not at_once([executed(1, 0, 4), executed(1, 3, 6)], {}, ended=10)


def test_the_dead_and_the_stopped_execute_nothing() -> None:
    tries = [executed(1, 0, None), executed(2, 4, 6)]
    assert not at_once(tries, {1: [Absence(3, FOREVER)]}, ended=10)
    assert not at_once(tries, {1: [Absence(3, 5)]}, ended=10)
    assert at_once(tries, {1: [Absence(5, FOREVER)]}, ended=10)
    assert at_once([executed(1, 2, None), executed(2, 4, 6)], {1: [Absence(0, 1)]}, ended=10)


def test_a_step_may_be_lost_between_its_claim_and_its_beginning() -> None:
    tries = [executed(1, 5, 6), executed(2, 5.5, 7)]
    stopped = {1: [Absence(1, 4)]}
    assert at_once(tries, stopped, ended=10)
    tries[0].asked = 4.5
    assert at_once(tries, stopped, ended=10), "it asked after it was continued"
    tries[0].asked = 0.5
    assert not at_once(tries, stopped, ended=10)


def test_the_journal_knows_when_a_step_was_asked_for(tmp_path: Path) -> None:
    step = {"run": "r", "step": "model.p.a", "attempt": 1}
    said = [
        {"pid": 1, "at": 1, "what": "asks", "run": "r"},
        {"pid": 1, "at": 2, "what": "asks", "run": "r"},
        {"pid": 1, "at": 3, "what": "enter", **step},
        {"pid": 1, "at": 4, "what": "leave", "how": "ok"},
    ]
    (tmp_path / "1").write_text("".join(json.dumps(each) + "\n" for each in said))
    (execution,) = Journal(tmp_path).executions("r")
    assert (execution.asked, execution.entered) == (2, 3)


def test_a_write_after_the_successor_began_is_found() -> None:
    assert written_late([executed(1, 0, 5, written=4.5), executed(2, 4, 6)])
    assert not written_late([executed(1, 0, 5, written=3.5), executed(2, 4, 6)])
    assert not written_late([executed(1, 0, 5), executed(2, 4, 6, written=5.5)])


def test_a_successor_that_never_reached_the_warehouse_harms_nobody() -> None:
    other = executed(2, 4, 6)
    other.answered.clear()
    assert not written_late([executed(1, 0, 5, written=4.5), other])


def test_what_committed_and_ran_again_is_known() -> None:
    assert committed_twice([executed(1, 0, 5, written=4), executed(2, 6, 7, written=7)]) == {"model.p.a"}
    assert not committed_twice([executed(1, 0, 5), executed(2, 6, 7, written=7)])


def test_a_commit_whose_answer_nobody_heard_may_have_been_one(tmp_path: Path) -> None:
    step = {"run": "r", "step": "model.p.a", "attempt": 1}
    said: list[dict[str, object]] = [
        {"pid": 1, "at": 1, "what": "enter", **step},
        {"pid": 1, "at": 2, "what": "sent", "word": "commit", "writes": True},
        {"pid": 2, "at": 3, "what": "enter", **step},
        {"pid": 2, "at": 4, "what": "leave", "how": "ok"},
    ]

    def known() -> set[str]:
        return committed_twice(Journal(tmp_path).executions("r"))

    def write(lines: list[dict[str, object]]) -> None:
        (tmp_path / "all").write_text("".join(json.dumps(each) + "\n" for each in lines))

    write(said)
    assert known() == {"model.p.a"}
    write([*said[:2], {"pid": 1, "at": 2.5, "what": "failed", "word": "commit", "how": "Error"}, *said[2:]])
    assert known() == set()
