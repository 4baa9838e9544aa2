"""Sessions wait for processes that lost an earlier session and still have a file open."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from workers import tasks
from workers.contract.events import STATE, Event
from workers.ledger.records import Claim
from workers.runs.next_step import NextStep
from workers.sessions.stale_lock_holders import Holder
from workers.sessions.warehouse_lock import Session

SESSION = Session("20260101T000000-0123456789ab", "duckdb:/w.duckdb", 3)
STRAY = Holder("duckdb:/w.duckdb", "far:7", "elsewhere", 7, "1")


class Held:
    """A process whose looks at the strays find what a test says."""

    def __init__(self, looks: list[list[Holder]], stop: str | None = None) -> None:
        self.looks, self.said = looks, list[Event]()
        self.owner = "here:1"
        self.strays: Any = SimpleNamespace(end=self.look)
        self.ledger: Any = SimpleNamespace(fact=lambda *_: stop)
        self.progress: Any = SimpleNamespace(emit=self.said.append)

    def look(self, files: tuple[str, ...]) -> list[Holder]:
        assert files == (SESSION.warehouse,)
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    fake = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(tasks, "time", fake)
    return now


def may_open(held: Any) -> bool:
    return tasks._may_open(held, SESSION)


def test_a_session_executes_without_stale_lock_holders() -> None:
    held = Held([[]])
    assert may_open(held)
    assert held.said == []


def test_a_session_waits_for_a_holder_that_cannot_be_killed_and_publishes_it() -> None:
    held = Held([[STRAY], [STRAY], []])
    assert may_open(held)
    [event] = held.said
    assert (event.kind, event.node, event.state, event.worker) == (STATE, "@session", "waiting", "here:1")
    assert "waiting for far:7 to let go of /w.duckdb" in event.text


def test_the_wait_for_a_holder_ends_after_session_seconds(clock: list[float]) -> None:
    assert not may_open(Held([[STRAY]]))
    assert clock[0] - 100 >= tasks.settings.session_seconds


def test_a_worker_that_is_stopping_does_not_wait(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setattr(tasks, "draining", lambda: True)
    assert not may_open(Held([[STRAY]]))
    assert clock[0] == 100


@pytest.mark.parametrize(("stop", "at_once"), [("cancelled", True), ("fail_fast", False)])
def test_a_run_that_is_cancelled_needs_no_file(stop: str, at_once: bool, clock: list[float]) -> None:
    assert may_open(Held([[STRAY]], stop)) is at_once
    assert (clock[0] == 100) is at_once


@pytest.mark.parametrize(("tries", "losses"), [(1, 0), (2, 0), (2, 1)])
def test_a_repeated_execution_is_marked_as_following_another(tries: int, losses: int) -> None:
    """Also one that gave the step back: it may have left a connection that still holds its locks."""
    claim = Claim(
        run_id=SESSION.run_id, step="model.p.a", fence=4, tries=tries, losses=losses, index=1, skip=False,
        cause="", stopping=False,
    )  # fmt: skip
    held: Any = SimpleNamespace(leases=SimpleNamespace(assure=lambda: None))
    assert tasks._execution(held, claim).has_predecessors == (tries > 1)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_plan_begins_the_session_whose_message_was_not_sent(
    monkeypatch: pytest.MonkeyPatch, *, goes_on: bool
) -> None:
    begun: list[tuple[str, tuple[str, str]]] = []
    monkeypatch.setattr(tasks, "_perform", lambda *_: {"run": "r", tasks.steps.GOES_ON: goes_on})
    runtime = SimpleNamespace(next_step=NextStep(), publish=lambda *_: None)
    monkeypatch.setattr(tasks, "process_runtime", lambda: runtime)
    monkeypatch.setattr(tasks, "_task_events", nullcontext)
    monkeypatch.setattr(tasks, "_trace_as_own_task", lambda _, __, name, args: begun.append((name, args)))
    assert tasks.plan.run("r") == {"run": "r"}
    assert begun == ([("relay.session", ("r", "@session"))] if goes_on else [])
