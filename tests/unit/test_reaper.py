"""The reaper: overdue leases and watches, and when it waits for renewals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from tests.support.waiting import wait_until
from workers.contract.connection import WritesRefusedError
from workers.supervision.reaper import Reaper

RUN = "20250101T000000-0123456789ab"


class Client:
    """The Redis commands that the reaper uses."""

    def __init__(self) -> None:
        self.run_id, self.uptime, self.waiting = "server1", 1000, 0

    def info(self, section: str) -> dict[str, Any]:
        assert section == "server"
        return {"run_id": self.run_id, "uptime_in_seconds": self.uptime}


class Ledger:
    """Returns the given watches."""

    lease_ms = 100

    def __init__(self) -> None:
        self.client = Client()
        self.watches: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.queue_was_empty: bool | None = None
        self.forgot = 0
        self.due: tuple[str, ...] = ()
        self.refused: redis.RedisError | None = None
        self.slow = 0.0
        self.clock = 1000.0

    def try_a_write(self) -> None:
        if self.refused is not None:
            raise self.refused

    def queue_length(self, queue: str) -> int:
        assert queue == "q"
        return self.client.waiting

    def server_time(self) -> float:
        return self.clock

    def overdue(self, *, queue_empty: bool) -> list[tuple[str, str]]:
        self.queue_was_empty = queue_empty
        time.sleep(self.slow)
        return [(RUN, step) for step in self.watches]

    def reap(self, run_id: str, step: str, looked_ms: int) -> dict[str, Any]:
        assert looked_ms == self.clock * 1000
        self.asked.append(step)
        return {"publish": (), "losses": 1, **self.watches[step]}

    def forget_dead_workers(self) -> None:
        self.forgot += 1

    def some_active_runs(self) -> list[str]:
        return [RUN]

    def dispatch(self, run_id: str) -> tuple[str, ...]:
        due, self.due = self.due, ()
        return due


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def published() -> list[tuple[str, tuple[str, ...]]]:
    return []


@pytest.fixture
def reaper(ledger: Ledger, published: list[tuple[str, tuple[str, ...]]]) -> Reaper:
    def publish(run_id: str, steps: Sequence[str]) -> None:
        if steps:
            published.append((run_id, tuple(steps)))

    made: Any = Reaper(ledger, publish, queue="q", interval=0.02)  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def test_a_lost_message_is_sent_again(ledger: Ledger, reaper: Reaper, published: list[Any]) -> None:
    ledger.watches = {"@plan": {"what": "publish"}, "model.p.a": {"what": "nothing"}}
    assert reaper.sweep() == 1
    assert published == [(RUN, ("@plan",))]
    assert ledger.asked == ["@plan", "model.p.a"]
    assert ledger.queue_was_empty is True


def test_queue_with_messages_is_reported_to_ledger(ledger: Ledger, reaper: Reaper) -> None:
    ledger.client.waiting = 10
    ledger.watches = {"model.p.a": {"what": "nothing"}}
    assert reaper.sweep() == 0
    assert ledger.queue_was_empty is False


def test_step_of_lost_worker_is_requeued(ledger: Ledger, reaper: Reaper, published: list[Any]) -> None:
    ledger.watches = {"model.p.a": {"what": "lost", "owner": "h:1", "publish": ("model.p.a", "model.p.b")}}
    assert reaper.sweep() == 1
    assert published == [(RUN, ("model.p.a", "model.p.b"))]


def test_steps_made_ready_by_a_deadline_are_published(
    ledger: Ledger, reaper: Reaper, published: list[Any]
) -> None:
    ledger.watches = {"@deadline": {"what": "deadline", "publish": ("@close",)}}
    assert reaper.sweep() == 1
    assert published == [(RUN, ("@close",))]


def test_run_waiting_for_warehouse_of_dead_session_is_published(
    reaper: Reaper, ledger: Ledger, published: list[Any]
) -> None:
    ledger.watches = {"@session": {"what": "nothing", "publish": (f"{RUN} @session",)}}
    assert reaper.sweep() == 0
    assert published == [(RUN, (f"{RUN} @session",))]


def test_ready_step_that_was_not_published_is_published(
    ledger: Ledger, reaper: Reaper, published: list[Any]
) -> None:
    ledger.due = ("model.p.c",)
    assert reaper.sweep() == 1
    assert published == [(RUN, ("model.p.c",))]
    assert ledger.forgot == 1
    ledger.due = ("model.p.d",)
    assert reaper.sweep() == 0  # every fifth sweep looks for these
    wait_until(lambda: reaper.sweep() == 1, 2)


def test_reaper_waits_for_renewals_after_redis_restart(ledger: Ledger, reaper: Reaper) -> None:
    ledger.watches = {"@plan": {"what": "publish"}}
    assert reaper.sweep() == 1
    ledger.client.run_id = "server2"
    assert reaper.sweep() == 0
    ledger.asked.clear()
    wait_until(lambda: reaper.sweep() == 1, 2)
    assert ledger.asked == ["@plan"]


def test_reaper_waits_when_redis_is_up_for_less_than_a_lease(ledger: Ledger, reaper: Reaper) -> None:
    ledger.client.uptime = 0
    ledger.watches = {"@plan": {"what": "publish"}}
    assert reaper.sweep() == 0
    wait_until(lambda: reaper.sweep() == 1, 2)


def test_reaper_waits_for_renewals_after_redis_did_not_answer(ledger: Ledger, reaper: Reaper) -> None:
    ledger.watches = {"model.p.a": {"what": "lost"}}
    ledger.slow = 0.04  # of a lease of 0.1 s
    assert reaper.sweep() == 0
    ledger.slow = 0.0
    assert reaper.sweep() == 0
    assert ledger.asked == []
    wait_until(lambda: reaper.sweep() == 1, 2)


def test_reaper_waits_for_renewals_after_redis_refused_writes(ledger: Ledger, reaper: Reaper) -> None:
    ledger.watches = {"model.p.a": {"what": "lost"}}
    ledger.refused = WritesRefusedError("MISCONF cannot save")
    with pytest.raises(WritesRefusedError):
        reaper.sweep()
    ledger.refused = None
    assert reaper.sweep() == 0
    assert ledger.asked == []
    wait_until(lambda: reaper.sweep() == 1, 2)


def test_slow_answer_ends_the_sweep(ledger: Ledger, reaper: Reaper) -> None:
    ledger.watches = {"model.p.a": {"what": "late"}, "model.p.b": {"what": "lost"}}
    assert reaper.sweep() == 0
    assert ledger.asked == ["model.p.a"]
    assert reaper.sweep() == 0
    assert ledger.asked == ["model.p.a"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The reaper's clock of this machine, seconds."""
    now = [0.0]
    monkeypatch.setattr("workers.supervision.reaper.lease_clock", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "clocks", [(60.0, 60.0), (60.0, 0.0), (0.02, 3600.0)], ids=["both", "ours", "server"]
)
def test_reaper_waits_for_renewals_after_its_own_pause(
    ledger: Ledger, reaper: Reaper, clock: list[float], clocks: tuple[float, float]
) -> None:
    """This process was stopped, perhaps with the whole machine, or the server's clock was set forward."""
    assert reaper.sweep() == 0
    ledger.watches = {"model.p.a": {"what": "lost"}}
    clock[0] += clocks[0]
    ledger.clock += clocks[1]
    assert reaper.sweep() == 0
    clock[0] += 600  # a second pause, before any worker could renew
    assert reaper.sweep() == 0
    assert ledger.asked == []
    clock[0] += 0.02
    assert reaper.sweep() == 1


def test_reaper_with_little_cpu_time_still_requeues(
    ledger: Ledger, reaper: Reaper, clock: list[float]
) -> None:
    ledger.watches = {"model.p.a": {"what": "lost"}}
    found = [reaper.sweep()]
    for _ in range(12):
        clock[0] += 10  # between any two sweeps
        found.append(reaper.sweep())
    assert found == [1, *[0, 0, 1] * 4]


def test_stale_lock_holders_are_ended_after_the_leases_were_checked(ledger: Ledger) -> None:
    strays: Any = SimpleNamespace(end=lambda: ledger.asked.append("strays"))
    made: Any = Reaper(ledger, lambda *_: None, queue="q", interval=0.02, strays=strays)  # type: ignore[arg-type]
    ledger.watches = {"@session": {"what": "nothing"}}
    made.sweep()
    assert ledger.asked == ["@session", "strays"]
