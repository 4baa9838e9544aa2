"""Beats, and what happens when one is answered with lost or stop, or not at all."""

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
    """Answers beats from a list of words; the last one for ever."""

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


def heart_of(ledger: Ledger, cancel: Any = lambda: None, **more: Any) -> LeaseRenewer:
    made: Any = LeaseRenewer(ledger, cancel, **more)  # type: ignore[arg-type]
    made._interval = min(made._interval, 0.02)
    return made  # type: ignore[no-any-return]


def test_a_lease_is_renewed_every_third_of_it_while_it_is_held() -> None:
    ledger = Ledger(lease_ms=60)
    renewer = heart_of(ledger)
    began = time.monotonic()
    with renewer.holding(claim()):
        wait_until(lambda: len(ledger.beats) >= 5, 5)
    assert time.monotonic() - began >= 4 * 0.02 * 0.8
    assert ledger.beats[0] == (RUN, [("model.p.a", 3)])
    said = len(ledger.beats)
    time.sleep(0.1)
    assert len(ledger.beats) <= said + 1  # one may have been under way


@pytest.mark.parametrize("why", [LOST, STOP])
def test_a_step_that_must_not_go_on_is_interrupted(why: str) -> None:
    cancelled = threading.Event()
    ledger = Ledger("ok", why)
    renewer = heart_of(ledger, cancelled.set)
    with pytest.raises(StepInterrupted) as caught, renewer.holding(claim()), renewer.interruptible():
        signal.pause()  # until the interruption
    assert caught.value.why == why
    assert cancelled.is_set()


def test_outside_of_dbt_an_interruption_waits_for_the_next_time() -> None:
    ledger = Ledger(STOP)
    renewer = heart_of(ledger)
    with renewer.holding(claim()):
        wait_until(lambda: len(ledger.beats) >= 2, 5)  # nothing is raised here
        wait_until(lambda: renewer.why, 5)
        with pytest.raises(StepInterrupted), renewer.interruptible():
            pytest.fail("it began")


def test_a_new_step_begins_with_a_clean_slate() -> None:
    ledger = Ledger(STOP)
    renewer = heart_of(ledger)
    with renewer.holding(claim()):
        wait_until(lambda: renewer.why, 5)
    ledger.answers = ["ok"]
    with renewer.holding(claim("model.p.b", 1)), renewer.interruptible():
        wait_until(lambda: ledger.beats[-1][1] == [("model.p.b", 1)], 5)


def test_a_server_that_is_away_for_a_lease_means_the_step_is_lost() -> None:
    renewer = heart_of(Ledger(redis.ConnectionError("away"), lease_ms=60))
    began = time.monotonic()
    mine = claim(sure_for=0.06)
    with pytest.raises(StepInterrupted) as caught, renewer.holding(mine), renewer.interruptible():
        signal.pause()
    assert caught.value.why == LOST
    assert time.monotonic() - began >= 0.05


def test_a_claim_that_was_answered_too_late_is_not_begun() -> None:
    renewer = heart_of(Ledger())
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
def test_a_step_whose_lease_ran_out_before_dbt_began_is_asked_for_again(
    answer: str | Exception, *, begun: bool
) -> None:
    renewer, entered = heart_of(Ledger(answer)), False
    renewer._beating = True  # no beat comes first
    with contextlib.suppress(StepInterrupted), renewer.holding(claim(sure_for=0.01)):
        wait_until(lambda: lease_clock() > renewer._sure[RUN, "model.p.a"], 5)
        with renewer.interruptible():
            entered = True
    assert entered == begun
    assert renewer.why == (None if begun else LOST)


def test_a_beat_that_gets_no_answer_does_not_outlast_the_lease() -> None:
    answered, asked = threading.Event(), threading.Event()

    class Silent(Ledger):
        def beat(self, run_id: str, held: Iterable[tuple[str, int]]) -> list[str]:
            asked.set()
            assert answered.wait(60)
            return super().beat(run_id, held)

    renewer = heart_of(Silent(lease_ms=300))
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


def test_what_the_clock_gave_up_is_interrupted_though_the_next_beat_succeeds() -> None:
    cancelled = threading.Event()
    ledger = Ledger()
    renewer = heart_of(ledger, cancelled.set)

    def execute() -> None:
        renewer._interrupt(
            RUN, "model.p.a", 3, LOST
        )  # as the guard does, just before the server answers again
        assert cancelled.is_set()
        wait_until(lambda: False, 5, "the interruption")

    with pytest.raises(StepInterrupted) as caught, renewer.holding(claim()), renewer.interruptible():
        execute()
    assert caught.value.why == LOST


def test_while_nothing_listens_nobody_can_be_given_the_step() -> None:
    refused = redis.ConnectionError("Error 111 connecting")
    refused.__context__ = ConnectionRefusedError(111, "Connection refused")
    ledger = Ledger(refused, lease_ms=1000)
    renewer = heart_of(ledger)
    with renewer.holding(claim(sure_for=1.0)), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 60, 10)  # a lease and more
        ledger.answers = [redis.BusyLoadingError("loading")]
        said = len(ledger.beats)
        wait_until(lambda: len(ledger.beats) >= said + 60, 10)
        ledger.answers = ["ok"]
        wait_until(lambda: len(ledger.beats) >= said + 62, 5)


def test_an_error_that_nobody_foresaw_does_not_end_the_beats() -> None:
    ledger = Ledger(TypeError("not foreseen"), "ok")
    renewer = heart_of(ledger)
    with renewer.holding(claim()), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 3, 5)


def test_a_server_that_is_away_for_less_is_ridden_out() -> None:
    ledger = Ledger(redis.ConnectionError("away"), "ok")
    renewer = heart_of(ledger)
    with renewer.holding(claim()), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 4, 5)


def test_a_cancel_that_fails_does_not_keep_the_step_alive() -> None:
    def cancel() -> None:
        raise OSError("the driver is confused")

    renewer = heart_of(Ledger(STOP), cancel)
    with pytest.raises(StepInterrupted), renewer.holding(claim()), renewer.interruptible():
        signal.pause()


def test_a_session_keeps_its_warehouse_with_its_step() -> None:
    ledger = Ledger()
    renewer = heart_of(ledger)
    with renewer.session(Session(RUN, "duckdb:/x", 7)):
        wait_until(lambda: ledger.beats, 5)
        with renewer.holding(claim()):
            wait_until(lambda: len(ledger.beats[-1][1]) == 2, 5)
    assert ledger.beats[0] == (RUN, [("@session", 7)])
    assert set(ledger.beats[-1][1]) >= {("@session", 7)}


def test_the_signal_handler_of_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    renewer = heart_of(Ledger())
    with renewer.holding(claim()), renewer.interruptible():
        assert signal.getsignal(signal.SIGUSR2) != before
    assert signal.getsignal(signal.SIGUSR2) == before


class Notes:
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.all: list[TimedNode | None] = []

    def __call__(self, watched: TimedNode | None) -> None:
        self.all.append(None if watched is None else msgspec.structs.replace(watched))


def test_a_node_past_its_limit_is_cancelled_and_then_raised_in() -> None:
    cancelled: list[float] = []
    renewer = heart_of(Ledger(), lambda: cancelled.append(time.monotonic()), too_long=DbtTimeoutError)
    with renewer.holding(claim()):

        def execute() -> None:
            with renewer.interruptible(NodeLimits(soft=0.1, hard=9)):
                wait_until(lambda: cancelled, 30)
                assert renewer.overrun is not None  # who fails of a cancelled query learns why
                signal.pause()

        with pytest.raises(DbtTimeoutError, match=r"its soft time limit of 0\.1 s has passed: it ran for \d"):
            execute()
        assert len(cancelled) == 2
        assert cancelled[1] - cancelled[0] >= 0.9  # dbt had its time to fail by itself
    with renewer.holding(claim()):
        assert renewer.overrun is None


def test_a_node_that_fails_when_it_is_cancelled_is_not_raised_in() -> None:
    cancelled = threading.Event()
    renewer = LeaseRenewer(Ledger(), cancelled.set)  # type: ignore[arg-type]
    with renewer.holding(claim()):
        with renewer.interruptible(NodeLimits(hard=0.05)):
            assert cancelled.wait(30)
        assert renewer.overrun is not None
        assert renewer.overrun.text.startswith("its time limit of 0.05 s has passed")
        with renewer.interruptible():  # the next thing is another's
            time.sleep(1.2)


def test_a_node_within_its_limit_or_without_one_is_left_alone() -> None:
    ledger = Ledger()
    renewer = heart_of(ledger, lambda: pytest.fail("cancelled"))
    for limits in (NodeLimits(60, 90), NodeLimits(), None):
        beats = len(ledger.beats)
        with renewer.holding(claim()), renewer.interruptible(limits):
            wait_until(lambda beats=beats: len(ledger.beats) > beats + 2, 30)
        assert renewer.overrun is None


def test_node_with_limit_is_noted_while_it_executes() -> None:
    notes = Notes()
    renewer = heart_of(Ledger(), note=notes)
    mine = claim()
    with renewer.holding(mine):
        with renewer.interruptible(NodeLimits(60, 90), owner="h:1", fail_fast=True):
            first = notes.all[0]
            assert first is not None
            assert (first.pid, first.owner, first.claim, first.fail_fast) == (os.getpid(), "h:1", mine, True)
            assert first.limits == NodeLimits(60, 90)
        assert notes.all[-1] is None
        said = len(notes.all)
        with renewer.interruptible():  # nothing that could take too long
            pass
        assert len(notes.all) == said


def test_a_server_that_does_not_answer_a_cancel_does_not_stop_the_beats() -> None:
    away, ledger = threading.Event(), Ledger()
    renewer = heart_of(ledger, lambda: away.wait(60))
    with renewer.holding(claim()), renewer.interruptible(NodeLimits(hard=0.01)):
        wait_until(lambda: renewer.overrun, 30)
        beats = len(ledger.beats)
        wait_until(lambda: len(ledger.beats) > beats + 2, 30)
    away.set()


def test_what_failed_because_it_was_cancelled_is_known_afterwards() -> None:
    renewer = heart_of(Ledger("ok", STOP))
    with renewer.holding(claim()):
        renewer.check()
        wait_until(lambda: renewer.why, 30)
        with pytest.raises(StepInterrupted, match=STOP):
            renewer.check()


def test_a_fresh_claim_is_sure_by_the_clock_and_an_old_one_asks() -> None:
    ledger = Ledger("ok", "ok", LOST, lease_ms=600_000)  # no beat but those that are asked for
    renewer = heart_of(ledger)
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


def test_a_ledger_that_cannot_be_asked_makes_nobody_sure() -> None:
    renewer = heart_of(Ledger(redis.ConnectionError("away"), lease_ms=600_000))
    renewer._interval = 600.0
    with renewer.holding(claim(sure_for=-1)), pytest.raises(redis.ConnectionError):
        renewer.assure()


def test_a_worker_that_is_stopping_and_has_no_time_left_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [5.0]
    monkeypatch.setattr("workers.supervision.lease_renewal.seconds_left", lambda: left[0])
    ledger = Ledger()
    renewer = heart_of(ledger)
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


def test_a_node_beside_one_that_ended_the_run_is_cancelled_when_its_time_is_up() -> None:
    cancelled = threading.Event()
    renewer = heart_of(Ledger("ok"), cancelled.set)
    short = msgspec.structs.replace(claim(), grace=0.05)
    with renewer.holding(short):
        with renewer.interruptible():
            assert cancelled.wait(5)
        with pytest.raises(StepInterrupted) as caught:
            renewer.check()
    assert caught.value.why == STOP


def test_held_leases_are_posted_from_claim_to_end_and_after_each_renewal() -> None:
    posted: list[list[Lease]] = []
    renewer = heart_of(Ledger(lease_ms=60_000), post=posted.append)
    mine = claim(sure_for=1)
    with renewer.session(Session(RUN, "duckdb:/x", 7)):
        assert posted[-1] == [Lease(RUN, "@session", 7)]
        with renewer.holding(mine):
            assert posted[-1][1] == Lease(RUN, mine.step, mine.fence, mine.sure_until)
            wait_until(lambda: all(lease.until > mine.sure_until for lease in posted[-1]), 5)
            assert [lease.key for lease in posted[-1]] == [(RUN, "@session", 7), (RUN, mine.step, mine.fence)]
        assert [lease.key for lease in posted[-1]] == [(RUN, "@session", 7)]
    assert posted[-1] == []


def test_lease_that_the_main_process_renewed_is_not_given_up() -> None:
    """The beats of this process fail for longer than a lease, and those of the main process do not."""
    mine = claim(sure_for=0.06)
    renewed = {(RUN, mine.step, mine.fence): lease_clock() + 600}
    ledger = Ledger(redis.ConnectionError("away"), lease_ms=60)
    renewer = heart_of(ledger, lambda: pytest.fail("cancelled"), renewed=lambda: renewed)
    with renewer.holding(mine), renewer.interruptible():
        wait_until(lambda: len(ledger.beats) >= 20, 10)
        renewer.assure()
    assert renewer.why is None
    renewer = heart_of(ledger, renewed=lambda: renewed)
    later = claim(fence=4, sure_for=0.06)  # what was renewed for an earlier claim does not count for this one
    with pytest.raises(StepInterrupted), renewer.holding(later), renewer.interruptible():
        signal.pause()
