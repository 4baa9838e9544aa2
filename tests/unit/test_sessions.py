"""Sessions: a file is not opened while a process that lost an earlier session still has it open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.contract.events import STATE, Event
from workers.ledger.records import Claim
from workers.runs import session as module
from workers.runs.step import execution_of
from workers.sessions.stale_lock_holders import Holder
from workers.sessions.warehouse_lock import Session

SESSION = Session("20260101T000000-0123456789ab", "duckdb:/w.duckdb", 3)
STALE_HOLDER = Holder("duckdb:/w.duckdb", "far:7", "elsewhere", 7, "1")


class FakeRuntime:
    """A runtime whose checks for stale lock holders return what a test gives, one list for each check."""

    def __init__(self, checks: list[list[Holder]], stop: str | None = None) -> None:
        self.checks, self.events = checks, list[Event]()
        self.owner = "here:1"
        self.stale_holders: Any = SimpleNamespace(end=self.check)
        self.ledger: Any = SimpleNamespace(fact=lambda *_: stop)
        self.progress: Any = SimpleNamespace(emit=self.events.append)

    def check(self, files: tuple[str, ...]) -> list[Holder]:
        assert files == (SESSION.warehouse,)
        return self.checks.pop(0) if len(self.checks) > 1 else self.checks[0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    fake = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(module, "time", fake)
    return now


def may_open(runtime: Any) -> bool:
    return module.may_open(runtime, SESSION)


def test_file_without_stale_holder_is_opened_at_once() -> None:
    runtime = FakeRuntime([[]])
    assert may_open(runtime)
    assert runtime.events == []


def test_session_waits_for_a_stale_holder_and_publishes_that() -> None:
    runtime = FakeRuntime([[STALE_HOLDER], [STALE_HOLDER], []])
    assert may_open(runtime)
    [event] = runtime.events
    assert (event.kind, event.node, event.state, event.worker) == (STATE, "@session", "waiting", "here:1")
    assert "waiting for far:7 to close /w.duckdb" in event.text


def test_session_gives_its_process_up_after_a_while(clock: list[float]) -> None:
    assert not may_open(FakeRuntime([[STALE_HOLDER]]))
    assert clock[0] - 100 >= module.settings.session_seconds


def test_stopping_worker_does_not_wait_for_a_stale_holder(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setattr(module, "draining", lambda: True)
    assert not may_open(FakeRuntime([[STALE_HOLDER]]))
    assert clock[0] == 100


@pytest.mark.parametrize(("stop", "at_once"), [("cancelled", True), ("fail_fast", False)])
def test_cancelled_run_does_not_wait_for_a_stale_holder(stop: str, at_once: bool, clock: list[float]) -> None:
    assert may_open(FakeRuntime([[STALE_HOLDER]], stop)) is at_once
    assert (clock[0] == 100) is at_once


@pytest.mark.parametrize(("tries", "losses"), [(1, 0), (2, 0), (2, 1)])
def test_later_execution_of_a_step_follows_earlier_ones(tries: int, losses: int) -> None:
    """Also one that handed the step back: it may have left a connection that still has locks."""
    claim = Claim(
        run_id=SESSION.run_id, step="model.p.a", fence=4, tries=tries, losses=losses, index=1, skip=False,
        cause="", stopping=False,
    )  # fmt: skip
    runtime: Any = SimpleNamespace(leases=SimpleNamespace(assure=lambda: None))
    assert execution_of(runtime, claim).has_predecessors == (tries > 1)
