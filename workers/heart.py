"""Beats: the leases of what this process executes are renewed by a thread of their own.

When the ledger answers that a step is lost (its lease ran out and somebody else has it) or is to
stop (the run was cancelled, or ended early), or when Redis gave no answer for as long as a lease
lasts, the step is interrupted: its queries are cancelled and `StepInterrupted` is raised in the
thread that executes it. While Redis is down (nothing listens, or it loads its data) nobody can be given
the step, and it goes on: after a restart reapers wait until it could be renewed (`workers.reaper`).
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
from workers.ledger import Claim, Ledger
from workers.warehouse_lock import Session

LOST, STOP = "lost", "stop"
_SIGNAL = signal.SIGUSR2


class StepInterrupted(KeyboardInterrupt):
    """The step must not go on: its lease was lost (`LOST`), or its run is being stopped (`STOP`)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Heart:
    """Renews the leases that this process holds."""

    def __init__(self, ledger: Ledger, cancel: Callable[[], None]) -> None:
        self._ledger = ledger
        self._cancel = cancel
        self._held: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._why: str | None = None
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
            self._why = None
            self._held.setdefault(claim.run_id, {})[claim.step] = claim.fence
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

    def _check(self) -> None:
        if self._why is not None:
            raise StepInterrupted(self._why)

    def _raise(self, _signum: int, _frame: object) -> None:
        if self._executing and self._why is not None:
            raise StepInterrupted(self._why)

    def _drop(self, run_id: str, step: str) -> None:
        steps = self._held.get(run_id, {})
        steps.pop(step, None)
        if not steps:
            self._held.pop(run_id, None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="heart", daemon=True)
            self._thread.start()

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
                    pairs = list(steps.items())
                    for (step, fence), answer in zip(pairs, self._ledger.beat(run_id, pairs), strict=True):
                        if answer != "ok":
                            self._interrupt(run_id, step, fence, answer)
                renewed = sent
            except redis.RedisError as error:
                log("beat failed", error=str(error), phase="beat")
                if serves_nobody(error):
                    renewed = sent
                elif time.monotonic() - renewed > self._ledger.lease_ms / 1000:
                    # by now somebody else may have been given the step
                    for run_id, steps in held.items():
                        for step, fence in steps.items():
                            self._interrupt(run_id, step, fence, LOST)

    def _interrupt(self, run_id: str, step: str, fence: int, why: str) -> None:
        with self._lock:
            if self._held.get(run_id, {}).get(step) != fence:
                return  # finished meanwhile
            self._why = why
        log("interrupting", run=run_id, node=step, reason=why)
        if self._executing:
            with contextlib.suppress(Exception):  # whatever the driver says, the signal follows
                self._cancel()
            os.kill(os.getpid(), _SIGNAL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
