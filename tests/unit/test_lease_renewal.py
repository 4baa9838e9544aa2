"""Lease renewal, and interruption of a step after the answers lost and stop, and without an answer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
import redis

from tests.support.waiting import wait_until
from workers.contract.errors import DbtTimeoutError
from workers.ledger.records import Claim, lease_clock
from workers.sessions.warehouse_lock import Session
from workers.supervision.child_lease_renewal import Lease
from workers.supervision.lease_renewal import DRAIN, LOST, STOP, LeaseLostError, LeaseRenewer, StepInterrupted
from workers.supervision.time_limit_enforcement import TimedNode
from workers.supervision.time_limits import NodeLimits

RUN = "20250101T000000-0123456789ab"


class Ledger:
    """Answers renewals from a list; the last answer repeats."""

    def __init__(self, *answers: str | Exception, lease_ms: int = 60_000) -> None:
        self.lease_ms = lease_ms
        self.answers: list[str | Exception] = list(answers) or ["ok"]
        self.beats: list[tuple[str, list[tuple[str, int]]]] = []

    def beat(self, run_id: str, held: Iterable[tuple[str, int]]) -> list[str]:
        pairs = list(held)
        self.beats.append((run_id, pairs))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [answer] * len(pairs)


def claim(step: str = "model.p.a", fence: int = 3, sure_for: float = 60.0) -> Claim:
    return Claim(
        run_id=RUN, step=step, fence=fence, tries=1, losses=0, index=1, skip=False, cause="", stopping=False,
        sure_until=lease_clock() + sure_for,
    )  # fmt: skip


def renewer_of(ledger: Ledger, cancel: Any = lambda: None, **more: Any) -> LeaseRenewer:
    made: Any = LeaseRenewer(ledger, cancel, **more)  # type: ignore[arg-type]
    made._interval = min(made._interval, 0.02)
    return made  # type: ignore[no-any-return]


def test_held_lease_is_renewed_three_times_per_lease() -> None:
    ledger = Ledger(lease_ms=60)
    renewer = renewer_of(ledger)
    began = time.monotonic()
    with renewer.holding(claim()):
        wait_until(lambda: len(ledger.beats) >= 5, 5)
    assert time.monotonic() - began >= 4 * 0.02 * 0.8
    assert ledger.beats[0] == (RUN, [("model.p.a", 3)])
    count = len(ledger.beats)
    time.sleep(0.1)
    assert len(ledger.beats) <= count + 1  # one may have been under way


@pytest.mark.parametrize("why", [LOST, STOP])
def test_lost_or_stopped_step_is_interrupted(why: str) -> None:
    cancelled = threading.Event()
    ledger = Ledger("ok", why)
    renewer = renewer_of(ledger, cancelled.set)
    with pytest.raises(StepInterrupted) as caught, renewer.holding(claim()), renewer.interruptible():
        signal.pause()  # until the interruption
    assert caught.value.why == why
    assert cancelled.is_set()


def test_interruption_outside_of_dbt_is_raised_at_next_execution() -> None:
    ledger = Ledger(STOP)
    renewer = renewer_of(ledger)
    with renewer.holding(claim()):
        wait_until(lambda: len(ledger.beats) >= 2, 5)  # nothing is raised here
        wait_until(lambda: renewer.why, 5)
        with pytest.raises(StepInterrupted), renewer.interruptible():
            pytest.fail("it began")


def test_new_claim_resets_interruption() -> None:
    ledger = Ledger(STOP)
    renewer = renewer_of(ledger)
    with renewer.holding(claim()):
        wait_until(lambda: renewer.why, 5)
    ledger.answers = ["ok"]
    with renewer.holding(claim("model.p.b", 1)), renewer.interruptible():
        wait_until(lambda: ledger.beats[-1][1] == [("model.p.b", 1)], 5)


def test_step_is_lost_when_server_is_unreachable_for_a_lease() -> None:
    renewer = renewer_of(Ledger(redis.ConnectionError("away"), lease_ms=60))
    began = time.monotonic()
    mine = claim(sure_for=0.06)
    with pytest.raises(StepInterrupted) as caught, renewer.holding(mine), renewer.interruptible():
        signal.pause()
    assert caught.value.why == LOST
    assert time.monotonic() - began >= 0.05


def test_step_whose_claim_was_answered_too_late_is_not_executed() -> None:
    renewer = renewer_of(Ledger())
    with (
        pytest.raises(StepInterrupted) as caught,
        renewer.holding(claim(sure_for=-1)),
        renewer.interruptible(),
    ):
        pytest.fail("begun")
    assert caught.value.why == LOST


@pytest.mark.parametrize(
    ("answer", "begun"), [("lost", False), ("ok", True), (redis.ConnectionError("gone"), True)]
)
def test_dbt_starts_after_expired_lease_only_if_ledger_renews_it(
    answer: str | Exception, *, begun: bool
) -> None:
    renewer, entered = renewer_of(Ledger(answer)), False
    renewer._started = True  # no renewal comes first
    with contextlib.suppress(StepInterrupted), renewer.holding(claim(sure_for=0.01)):
        wait_until(lambda: lease_clock() > renewer._sure_until[RUN, "model.p.a"], 5)
        with renewer.interruptible():
            entered = True
    assert entered == begun
    assert renewer.why == (None if begun else LOST)


def test_step_is_interrupted_before_expiry_while_renewal_waits_for_answer() -> None:
    answered, asked = threading.Event(), threading.Event()

    class Silent(Ledger):
        def beat(self, run_id: str, held: Iterable[tuple[str, int]]) -> list[str]:
            asked.set()
            assert answered.wait(60)
            return super().beat(run_id, held)

    renewer = renewer_of(Silent(lease_ms=300))
    with (
        pytest.raises(StepInterrupted) as caught,
        renewer.holding(claim(sure_for=0.3)),
        renewer.interruptible(),
    ):
        signal.pause()  # until the interruption
    assert caught.value.why == LOST
    assert asked.is_set()
    assert not answered.is_set()
    answered.set()


def test_step_interrupted_by_clock_ends_though_next_renewal_succeeds() -> None:
    cancelled = threading.Event()
    ledger = Ledger()
    renewer = renewer_of(ledger, cancelled.set)

    def execute() -> None:
        renewer._interrupt(
            RUN, "model.p.a", 3, LOST
        )  # as the expiry check does, just before the server answers again
        assert cancelled.is_set()
        wait_until(lambda: False, 5, "the interruption")

    with pytest.raises(StepInterrupted) as caught, renewer.holding(claim()), renewer.interruptible():
        execute()
    assert caught.value.why == LOST


def test_step_continues_while_server_is_down() -> None:
    refused = redis.ConnectionError("Error 111 connecting")
    refused.__context__ = ConnectionRefusedError(111, "Connection refused")
    ledger = Ledger(refused, lease_ms=1000)
    renewer = renewer_of(ledger)
    with renewer.holding(claim(sure_for=1.0)), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 60, 10)  # a lease and more
        ledger.answers = [redis.BusyLoadingError("loading")]
        count = len(ledger.beats)
        wait_until(lambda: len(ledger.beats) >= count + 60, 10)
        ledger.answers = ["ok"]
        wait_until(lambda: len(ledger.beats) >= count + 62, 5)


def test_unexpected_error_does_not_stop_renewal() -> None:
    ledger = Ledger(TypeError("not foreseen"), "ok")
    renewer = renewer_of(ledger)
    with renewer.holding(claim()), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 3, 5)


def test_step_continues_when_server_is_unreachable_for_less_than_a_lease() -> None:
    ledger = Ledger(redis.ConnectionError("away"), "ok")
    renewer = renewer_of(ledger)
    with renewer.holding(claim()), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 4, 5)


def test_step_ends_though_cancelling_its_queries_fails() -> None:
    def cancel() -> None:
        raise OSError("the driver is confused")

    renewer = renewer_of(Ledger(STOP), cancel)
    with pytest.raises(StepInterrupted), renewer.holding(claim()), renewer.interruptible():
        signal.pause()


def test_session_lock_is_renewed_with_its_step() -> None:
    ledger = Ledger()
    renewer = renewer_of(ledger)
    with renewer.session(Session(RUN, "duckdb:/x", 7)):
        wait_until(lambda: ledger.beats, 5)
        with renewer.holding(claim()):
            wait_until(lambda: len(ledger.beats[-1][1]) == 2, 5)
    assert ledger.beats[0] == (RUN, [("@session", 7)])
    assert set(ledger.beats[-1][1]) >= {("@session", 7)}


def test_previous_signal_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    renewer = renewer_of(Ledger())
    with renewer.holding(claim()), renewer.interruptible():
        assert signal.getsignal(signal.SIGUSR2) != before
    assert signal.getsignal(signal.SIGUSR2) == before


class Notes:
    """Records the published nodes."""

    def __init__(self) -> None:
        self.all: list[TimedNode | None] = []

    def __call__(self, watched: TimedNode | None) -> None:
        self.all.append(None if watched is None else msgspec.structs.replace(watched))


def test_node_past_its_limit_is_cancelled_then_gets_exception() -> None:
    cancelled: list[float] = []
    renewer = renewer_of(Ledger(), lambda: cancelled.append(time.monotonic()), too_long=DbtTimeoutError)
    with renewer.holding(claim()):

        def execute() -> None:
            with renewer.interruptible(NodeLimits(soft=0.1, hard=9)):
                wait_until(lambda: cancelled, 30)
                assert renewer.overrun is not None  # the error of the cancelled query is explained by it
                signal.pause()

        with pytest.raises(DbtTimeoutError, match=r"its soft time limit of 0\.1 s has passed: it ran for \d"):
            execute()
        assert len(cancelled) == 2
        assert cancelled[1] - cancelled[0] >= 0.9  # dbt had time to let the node fail
    with renewer.holding(claim()):
        assert renewer.overrun is None


def test_node_that_fails_when_cancelled_gets_no_exception() -> None:
    cancelled = threading.Event()
    renewer = LeaseRenewer(Ledger(), cancelled.set)  # type: ignore[arg-type]
    with renewer.holding(claim()):
        with renewer.interruptible(NodeLimits(hard=0.05)):
            assert cancelled.wait(30)
        assert renewer.overrun is not None
        assert renewer.overrun.text.startswith("its time limit of 0.05 s has passed")
        with renewer.interruptible():  # no longer that node
            time.sleep(1.2)


def test_node_within_its_limit_or_without_limit_continues() -> None:
    ledger = Ledger()
    renewer = renewer_of(ledger, lambda: pytest.fail("cancelled"))
    for limits in (NodeLimits(60, 90), NodeLimits(), None):
        beats = len(ledger.beats)
        with renewer.holding(claim()), renewer.interruptible(limits):
            wait_until(lambda beats=beats: len(ledger.beats) > beats + 2, 30)
        assert renewer.overrun is None


def test_node_with_limit_is_published_while_it_executes() -> None:
    notes = Notes()
    renewer = renewer_of(Ledger(), publish_node=notes)
    mine = claim()
    with renewer.holding(mine):
        with renewer.interruptible(NodeLimits(60, 90), owner="h:1", fail_fast=True):
            first = notes.all[0]
            assert first is not None
            assert (first.pid, first.owner, first.claim, first.fail_fast) == (os.getpid(), "h:1", mine, True)
            assert first.limits == NodeLimits(60, 90)
        assert notes.all[-1] is None
        count = len(notes.all)
        with renewer.interruptible():  # without limits
            pass
        assert len(notes.all) == count


def test_unanswered_cancellation_does_not_stop_renewal() -> None:
    away, ledger = threading.Event(), Ledger()
    renewer = renewer_of(ledger, lambda: away.wait(60))
    with renewer.holding(claim()), renewer.interruptible(NodeLimits(hard=0.01)):
        wait_until(lambda: renewer.overrun, 30)
        beats = len(ledger.beats)
        wait_until(lambda: len(ledger.beats) > beats + 2, 30)
    away.set()


def test_interruption_is_known_after_the_execution() -> None:
    renewer = renewer_of(Ledger("ok", STOP))
    with renewer.holding(claim()):
        renewer.check()
        wait_until(lambda: renewer.why, 30)
        with pytest.raises(StepInterrupted, match=STOP):
            renewer.check()


def test_fresh_lease_is_assured_by_clock_and_old_one_by_ledger() -> None:
    ledger = Ledger("ok", "ok", LOST, lease_ms=600_000)  # no renewals except those of `assure`
    renewer = renewer_of(ledger)
    renewer._interval = 600.0
    with renewer.holding(claim(sure_for=600)):
        renewer.assure()
        assert ledger.beats == []
    with renewer.holding(claim(sure_for=-1)):
        renewer.assure()
        renewer.assure()  # the answer of the first is good for a lease
        assert ledger.beats == [(RUN, [("model.p.a", 3)])]
    with renewer.session(Session(RUN, "duckdb:/x", 7)), renewer.holding(claim(sure_for=600)):
        renewer.assure()
        assert ledger.beats[1:] == [(RUN, [("@session", 7), ("model.p.a", 3)])]
    with renewer.holding(claim(sure_for=-1)), pytest.raises(LeaseLostError, match=r"model\.p\.a was given"):
        renewer.assure()


def test_lease_is_not_assured_when_ledger_is_unreachable() -> None:
    renewer = renewer_of(Ledger(redis.ConnectionError("away"), lease_ms=600_000))
    renewer._interval = 600.0
    with renewer.holding(claim(sure_for=-1)), pytest.raises(redis.ConnectionError):
        renewer.assure()


def test_draining_worker_interrupts_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [5.0]
    monkeypatch.setattr("workers.supervision.lease_renewal.seconds_left", lambda: left[0])
    ledger = Ledger()
    renewer = renewer_of(ledger)
    with (  # noqa: PT012
        pytest.raises(StepInterrupted) as caught,
        renewer.session(Session(RUN, "duckdb:/x", 7)),
        renewer.holding(claim()),
        renewer.interruptible(),
    ):
        wait_until(lambda: len(ledger.beats) >= 3, 5)
        assert renewer.why is None
        left[0] = 0.0
        signal.pause()
    assert caught.value.why == DRAIN


def test_node_of_stopping_run_is_interrupted_after_its_grace() -> None:
    cancelled = threading.Event()
    renewer = renewer_of(Ledger("ok"), cancelled.set)
    short = msgspec.structs.replace(claim(), grace=0.05)
    with renewer.holding(short):
        with renewer.interruptible():
            assert cancelled.wait(5)
        with pytest.raises(StepInterrupted) as caught:
            renewer.check()
    assert caught.value.why == STOP


def test_leases_are_published_from_claim_to_end_and_after_each_renewal() -> None:
    posted: list[list[Lease]] = []
    renewer = renewer_of(Ledger(lease_ms=60_000), publish_leases=posted.append)
    mine = claim(sure_for=1)
    with renewer.session(Session(RUN, "duckdb:/x", 7)):
        assert posted[-1] == [Lease(RUN, "@session", 7)]
        with renewer.holding(mine):
            assert posted[-1][1] == Lease(RUN, mine.step, mine.fence, mine.sure_until)
            wait_until(lambda: all(lease.until > mine.sure_until for lease in posted[-1]), 5)
            assert [lease.key for lease in posted[-1]] == [(RUN, "@session", 7), (RUN, mine.step, mine.fence)]
        assert [lease.key for lease in posted[-1]] == [(RUN, "@session", 7)]
    assert posted[-1] == []


def test_lease_renewed_by_main_process_is_kept() -> None:
    """Renewals of this process fail for longer than a lease, while the main process renews."""
    mine = claim(sure_for=0.06)
    renewed = {(RUN, mine.step, mine.fence): lease_clock() + 600}
    ledger = Ledger(redis.ConnectionError("away"), lease_ms=60)
    renewer = renewer_of(ledger, lambda: pytest.fail("cancelled"), renewed=lambda: renewed)
    with renewer.holding(mine), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 20, 10)
        renewer.assure()
    assert renewer.why is None
    renewer = renewer_of(ledger, renewed=lambda: renewed)
    later = claim(fence=4, sure_for=0.06)  # the renewal of an earlier claim does not count
    with pytest.raises(StepInterrupted), renewer.holding(later), renewer.interruptible():
        signal.pause()
