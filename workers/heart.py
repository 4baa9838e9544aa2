"""Beats: the leases of what this process executes are renewed by a thread of their own.

When the ledger answers that a step is lost (its lease ran out and somebody else has it) or is to
stop (the run was cancelled, or ended early), when Redis gave no answer for as long as a lease lasts, or
when this worker is stopping and the time for it is up, the step is interrupted: its queries are cancelled
and `StepInterrupted` is raised in the thread that executes it. While Redis is down (nothing listens, or it
loads its data) nobody can be given the step, and it goes on: after a restart reapers wait until it could be
renewed (`workers.reaper`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import redis

from workers.contract.connection import serves_nobody
from workers.contract.log import log
from workers.draining import seconds_left
from workers.ledger import SESSION, Claim, Ledger, lease_clock
from workers.warehouse_lock import Session

LOST, STOP, DRAIN = "lost", "stop", "drain"
_SIGNAL = signal.SIGUSR2


class StepInterrupted(KeyboardInterrupt):
    """The step must not go on here: its lease was lost (`LOST`), its run is being stopped (`STOP`), or its
    worker is and has no time left (`DRAIN`)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class LeaseLostError(Exception):
    """This process cannot show that a step is still its own."""


class Heart:
    """Renews the leases that this process holds."""

    def __init__(self, ledger: Ledger, cancel: Callable[[], None]) -> None:
        self._ledger = ledger
        self._cancel = cancel
        self._held: dict[str, dict[str, int]] = {}
        self._sure: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self.why: str | None = None  # what executes now must not go on
        self._executing = False
        # also how soon a cancelled node hears of it
        self._interval = min(1.0, ledger.lease_ms / 3000)

    @contextlib.contextmanager
    def session(self, session: Session) -> Iterator[None]:
        """Keep a session's lock."""
        self._start()
        with self._lock:
            self._held.setdefault(session.run_id, {})[session.held[0]] = session.fence
        try:
            yield
        finally:
            with self._lock:
                self._drop(session.run_id, session.held[0])

    @contextlib.contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Keep a claim's lease.

        Raises:
            StepInterrupted: inside the block, from `interruptible` on.
        """
        self._start()
        with self._lock:
            # the answer to the claim may have come when its lease was over
            self.why = None if claim.sure_until > lease_clock() else LOST
            self._held.setdefault(claim.run_id, {})[claim.step] = claim.fence
            self._sure[claim.run_id, claim.step] = claim.sure_until
        try:
            yield
        finally:
            with self._lock:
                self._drop(claim.run_id, claim.step)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While dbt executes: an interruption is raised here, and nowhere else."""
        previous = signal.signal(_SIGNAL, self._raise) if _in_main_thread() else None
        self._executing = True
        try:
            self._check()
            yield
        finally:
            self._executing = False
            if previous is not None:
                signal.signal(_SIGNAL, previous)

    def assure(self) -> None:
        """Make sure that what this process executes is still its own, now.

        It mostly is by the clock: nobody else is given a step before its lease ran out. After a pause of this
        process, the ledger is asked.

        Raises:
            LeaseLostError: somebody else has it, or may have.
            redis.RedisError: the ledger cannot be asked.
        """
        now = lease_clock()
        with self._lock:
            held = {
                run_id: dict(steps)
                for run_id, steps in self._held.items()
                if any(self._sure.get((run_id, step), 0.0) <= now for step in steps)
            }
        for run_id, steps in held.items():
            for step, _, answer in self._renew(run_id, steps):
                if answer == LOST:
                    raise LeaseLostError(
                        f"{step} was given to another worker: this one was away for too long"
                    )

    def _renew(self, run_id: str, steps: dict[str, int]) -> list[tuple[str, int, str]]:
        """Beat; step, fence and answer of each."""
        pairs, until = list(steps.items()), lease_clock() + self._ledger.lease_ms / 1000
        try:
            answers = self._ledger.beat(run_id, pairs)
        except redis.RedisError as error:
            if not serves_nobody(error):
                raise
            log("beat failed", error=str(error), phase="beat")
            answers = ["ok"] * len(pairs)  # nor can it give the steps to anybody
        told = [(step, fence, answer) for (step, fence), answer in zip(pairs, answers, strict=True)]
        with self._lock:
            for step, fence, answer in told:
                if answer != LOST and self._held.get(run_id, {}).get(step) == fence:
                    self._sure[run_id, step] = until
        return told

    def _check(self) -> None:
        if self.why is not None:
            raise StepInterrupted(self.why)

    def _raise(self, _signum: int, _frame: object) -> None:
        if self._executing and self.why is not None:
            raise StepInterrupted(self.why)

    def _drop(self, run_id: str, step: str) -> None:
        steps = self._held.get(run_id, {})
        steps.pop(step, None)
        self._sure.pop((run_id, step), None)
        if not steps:
            self._held.pop(run_id, None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="heart", daemon=True)
            self._thread.start()
            threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def _guard(self) -> None:
        """Interrupt a step shortly before its lease is over, while the beat still waits for an answer."""
        margin, looked = self._interval / 2, lease_clock()
        while True:
            self._wake.wait(self._interval / 4)
            now = lease_clock()
            was_away, looked = now - looked > self._interval, now
            if was_away or self.why is not None:
                continue  # after a pause the ledger is asked: perhaps nobody else was given it
            with self._lock:
                held = {
                    run_id: {
                        step: fence
                        for step, fence in steps.items()
                        if self._sure.get((run_id, step), now + margin + 1) <= now + margin
                    }
                    for run_id, steps in self._held.items()
                }
            if any(held.values()):
                log("no answer for as long as the lease lasts", phase="beat")
                self._interrupt_all(held, LOST)

    def _work(self) -> None:
        renewed = time.monotonic()
        while True:
            self._wake.wait(self._interval)
            with self._lock:
                held = {run_id: dict(steps) for run_id, steps in self._held.items()}
            sent = time.monotonic()
            if not held:
                renewed = sent
                continue
            try:
                for run_id, steps in held.items():
                    for step, fence, answer in self._renew(run_id, steps):
                        if answer != "ok":
                            self._interrupt(run_id, step, fence, answer)
                renewed = sent
            except redis.RedisError as error:
                log("beat failed", error=str(error), phase="beat")
                if time.monotonic() - renewed > self._ledger.lease_ms / 1000:
                    # by now somebody else may have been given the step
                    self._interrupt_all(held, LOST)
            if self.why in (None, DRAIN) and seconds_left() <= 0:
                self._interrupt_all(held, DRAIN)

    def _interrupt_all(self, held: dict[str, dict[str, int]], why: str) -> None:
        for run_id, steps in held.items():
            for step, fence in steps.items():
                if step != SESSION:  # it ends by itself, after its step
                    self._interrupt(run_id, step, fence, why)

    def _interrupt(self, run_id: str, step: str, fence: int, why: str) -> None:
        with self._lock:
            if self._held.get(run_id, {}).get(step) != fence:
                return  # finished meanwhile
            self.why = why
        log("interrupting", run=run_id, node=step, reason=why)
        if self._executing:
            with contextlib.suppress(Exception):  # whatever the driver says, the signal follows
                self._cancel()
            os.kill(os.getpid(), _SIGNAL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
