"""Renews the leases of the steps that this process executes, from a background thread.

While that thread cannot run, the worker's main process renews them (`workers.supervision.child_lease_renewal`), and this process
counts on that as on its own. When the ledger answers that a step is lost (its lease ran out and somebody else has it) or is to
stop (the run was cancelled, or ended early), when Redis gave no answer for as long as a lease lasts, or
when this worker is stopping and the time for it is up, the step is interrupted: its queries are cancelled,
and should it still go on at the next beat, `StepInterrupted` is raised in the thread that executes it. While
Redis is down (nothing listens, or it loads its data) nobody can be given the step, and it goes on: after a
restart reapers wait until it could be renewed (`workers.supervision.reaper`).

A node that takes longer than it may is cancelled too, and a second later an error of dbt's own kind is
raised, so that dbt lets it fail. What heeds neither is ended from outside (`workers.supervision.time_limit_enforcement`), which is
told here what this process holds.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import redis

from workers.contract.keys import SESSION
from workers.contract.log import log
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, lease_clock
from workers.sessions.warehouse_lock import Session
from workers.supervision.child_lease_renewal import Key, Lease, interval_of, renew
from workers.supervision.drain import seconds_left
from workers.supervision.periodic_thread import PeriodicThread
from workers.supervision.time_limit_enforcement import TimedNode, no_note
from workers.supervision.time_limits import GRACE, NodeLimits, Overrun

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


class LeaseRenewer:
    """Renews the leases that this process holds, and looks at the clock of what it executes."""

    def __init__(
        self,
        ledger: Ledger,
        cancel: Callable[[], None],
        *,
        too_long: Callable[[str], Exception] = TimeoutError,
        note: Callable[[TimedNode | None], None] = no_note,
        post: Callable[[list[Lease]], None] = lambda _: None,
        renewed: Callable[[], Mapping[Key, float]] = dict,
    ) -> None:
        """
        Args:
            cancel: cancels what the executing step asks of the warehouse.
            too_long: what to raise in a node that took longer than it may.
            note: tells whoever could end this process what it executes, and until when it may.
            post: tells the worker's main process which leases this process holds.
            renewed: which of them the main process renewed, and until when (`workers.supervision.child_lease_renewal`).
        """
        self._ledger = ledger
        self._cancel = cancel
        self._too_long, self._note = too_long, note
        self._post, self._renewed = post, renewed
        self._held: dict[str, dict[str, int]] = {}
        self._sure: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._beating = False
        self._looked = 0.0  # when the guard last did, by the leases' clock
        self.why: str | None = None  # what executes now must not go on
        self._execution: object | None = None
        self._cancelled: object | None = None
        self._raised: object | None = None
        self._interrupting = threading.Lock()
        self._claim: Claim | None = None
        self._watched: TimedNode | None = None
        self._raise_at: float | None = None
        self.overrun: Overrun | None = None
        self._interval = interval_of(ledger.lease_ms)

    @contextlib.contextmanager
    def session(self, session: Session) -> Iterator[None]:
        """Keep a session's lock."""
        self._start()
        with self._lock:
            self._held.setdefault(session.run_id, {})[session.held[0]] = session.fence
            self._post_leases()
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
            self._post_leases()
        self._claim, self.overrun = claim, None
        try:
            yield
        finally:
            self._claim = None
            with self._lock:
                self._drop(claim.run_id, claim.step)

    @contextlib.contextmanager
    def interruptible(
        self, limits: NodeLimits | None = None, *, owner: str = "", fail_fast: bool = False
    ) -> Iterator[None]:
        """While dbt executes: an interruption is raised here, and nowhere else.

        Args:
            limits: of the node that is claimed. Where one of them passed, `overrun` says so from then on
                until the next claim, whether the node heeded it or not.
            owner: this process's name.
            fail_fast: whether the node's failure ends its run.
        """
        previous = signal.signal(_SIGNAL, self._raise) if _in_main_thread() else None
        out_of_grace: threading.Timer | None = None
        try:
            with self._interrupting:
                self._watch(limits, owner, fail_fast=fail_fast)
            self._execution = object()
            claim = self._claim
            if claim is not None and claim.grace:
                stop = (claim.run_id, claim.step, claim.fence, STOP)
                out_of_grace = threading.Timer(claim.grace, self._interrupt, stop)
                out_of_grace.start()
            try:
                self._check_lease()
                yield
            finally:
                self._execution = None
        finally:
            self._execution = None
            if out_of_grace is not None:
                out_of_grace.cancel()
            with self._interrupting:  # what is being cancelled is this step's queries, not the next one's
                self._watch(None)
            if previous is not None:
                signal.signal(_SIGNAL, previous)

    def _watch(self, limits: NodeLimits | None, owner: str = "", *, fail_fast: bool = False) -> None:
        before, self._watched, self._raise_at = self._watched, None, None
        if limits is not None and limits.first and self._claim is not None:
            now = time.monotonic()
            self._watched = TimedNode(
                pid=os.getpid(), owner=owner, claim=msgspec.structs.replace(self._claim, publish=()),
                limits=limits, began=time.time(), since=now, fail_fast=fail_fast,
            )  # fmt: skip
        if self._watched is not None or before is not None:
            self._note(self._watched)

    def check(self) -> None:
        """Raises StepInterrupted where the step that is held was to be interrupted, also after it executed:
        what failed because its queries were cancelled has not failed."""
        if self.why is not None:
            raise StepInterrupted(self.why)

    def _check_lease(self) -> None:
        """Raises StepInterrupted where the lease ran out before dbt begins: this process may have been stopped
        since it was given the step."""
        try:
            self.assure()
        except LeaseLostError:
            self.why = LOST
        except redis.RedisError as error:
            log("lease not looked at", error=str(error), phase="beat")  # the guard looks again
        self.check()

    def _raise(self, _signum: int, _frame: object) -> None:
        if self._execution is None:
            return
        self.check()
        if self.overrun is not None:
            raise self._too_long(self.overrun.text)

    def _look_at_the_clock(self) -> None:
        """Cancel, and a little later raise, where the node takes longer than it may. Each once."""
        execution, watched = self._execution, self._watched
        if watched is None or execution is None:
            return
        elapsed = time.monotonic() - watched.since
        if self.overrun is None and elapsed >= watched.limits.first:
            log("time limit passed", run=watched.claim.run_id, node=watched.claim.step,
                seconds=round(elapsed, 1))  # fmt: skip
            self._cancel_execution(execution, overrun=watched.limits.passed(elapsed))
        elif self._raise_at is not None and elapsed >= self._raise_at:
            self._cancel_execution(execution, signalled=True)

    def _cancel_execution(
        self, execution: object, *, signalled: bool = False, overrun: Overrun | None = None
    ) -> None:
        with self._interrupting:
            if self._execution is not execution:
                return  # finished meanwhile
            self._raise_at = None if overrun is None else overrun.elapsed + GRACE
            self.overrun = overrun or self.overrun
            # a server that does not answer must not keep this thread from its beats
            cancelling = threading.Thread(target=self._try_to_cancel, name="cancel", daemon=True)
            cancelling.start()
            cancelling.join(self._interval)
            if signalled:
                self._raised = execution
                os.kill(os.getpid(), _SIGNAL)

    def _try_to_cancel(self) -> None:
        with contextlib.suppress(Exception):  # whatever the driver says, the signal follows
            self._cancel()

    def assure(self) -> None:
        """Make sure that what this process executes is still its own, now.

        It mostly is by the clock: nobody else is given a step before its lease ran out. After a pause of this
        process, the ledger is asked.

        Raises:
            LeaseLostError: somebody else has it, or may have.
            redis.RedisError: the ledger cannot be asked.
        """
        unsure = self._unsure(lease_clock(), unknown=0.0)
        for run_id in unsure:
            with self._lock:
                steps = dict(self._held.get(run_id, {}))
            for step, _, answer in self._renew(run_id, steps):
                if answer == LOST:
                    raise LeaseLostError(
                        f"{step} was given to another worker: this one was away for too long"
                    )

    def _renew(self, run_id: str, steps: dict[str, int]) -> list[tuple[str, int, str]]:
        """Beat; step, fence and answer of each."""
        answers, until = renew(self._ledger, run_id, steps.items())
        told = [(step, fence, answer) for (step, fence), answer in zip(steps.items(), answers, strict=True)]
        with self._lock:
            for step, fence, answer in told:
                if answer != LOST and self._held.get(run_id, {}).get(step) == fence:
                    self._sure[run_id, step] = until
            self._post_leases()
        return told

    def _post_leases(self) -> None:
        self._post(
            [
                Lease(run_id, step, fence, self._sure.get((run_id, step), 0.0))
                for run_id, steps in self._held.items()
                for step, fence in steps.items()
            ]
        )

    def _unsure(self, at: float, *, unknown: float) -> dict[str, dict[str, int]]:
        """What of this process somebody else may have been given at a time (`lease_clock`), by run and step.

        Args:
            unknown: until when a lease is sure that was never renewed here, such as a new session's.
        """
        renewed = self._renewed()
        with self._lock:
            unsure = {
                run_id: {
                    step: fence
                    for step, fence in steps.items()
                    if at >= max(
                        self._sure.get((run_id, step), unknown), renewed.get((run_id, step, fence), 0.0)
                    )
                }
                for run_id, steps in self._held.items()
            }  # fmt: skip
        return {run_id: steps for run_id, steps in unsure.items() if steps}

    def _drop(self, run_id: str, step: str) -> None:
        steps = self._held.get(run_id, {})
        steps.pop(step, None)
        self._sure.pop((run_id, step), None)
        if not steps:
            self._held.pop(run_id, None)
        self._post_leases()

    def _start(self) -> None:
        if self._beating:
            return
        self._beating, self._looked = True, lease_clock()
        PeriodicThread(
            "heart", self._beat, interval=self._interval, failed="beat failed", phase="beat"
        ).start()
        PeriodicThread("guard", self._guard, interval=self._interval / 4, failed="leases not looked at",
               phase="beat").start()  # fmt: skip

    def _guard(self) -> None:
        """Interrupt a step shortly before its lease is over, while the beat still waits for an answer: at
        one look its queries are cancelled, at the next, which is in time too, an exception is raised in it."""
        margin, now = self._interval / 2, lease_clock()
        was_away, self._looked = now - self._looked > self._interval, now
        if was_away or (self.why is not None and self._raised is self._execution):
            return  # after a pause the ledger is asked: perhaps nobody else was given it
        unsure = self._unsure(now + margin, unknown=math.inf)
        if unsure:
            log("no answer for as long as the lease lasts", phase="beat")
            self._interrupt_all(unsure, LOST)

    def _beat(self) -> None:
        self._look_at_the_clock()
        with self._lock:
            held = {run_id: dict(steps) for run_id, steps in self._held.items()}
        if not held:
            return
        try:
            for run_id, steps in held.items():
                for step, fence, answer in self._renew(run_id, steps):
                    if answer != "ok":
                        self._interrupt(run_id, step, fence, answer)
                    elif self.why == LOST and step != SESSION:
                        # told by the clock, and nobody else was given it: it is given back all the same
                        self._interrupt(run_id, step, fence, LOST)
        except Exception:
            self._interrupt_all(self._unsure(lease_clock(), unknown=math.inf), LOST)
            raise
        finally:
            if self.why in (None, DRAIN) and seconds_left() <= 0:
                self._interrupt_all(held, DRAIN)

    def _interrupt_all(self, held: dict[str, dict[str, int]], why: str) -> None:
        for run_id, steps in held.items():
            for step, fence in steps.items():
                if step != SESSION:  # it ends by itself, after its step
                    self._interrupt(run_id, step, fence, why)

    def _interrupt(self, run_id: str, step: str, fence: int, why: str) -> None:
        execution = self._execution
        with self._lock:
            if self._held.get(run_id, {}).get(step) != fence:
                return  # finished meanwhile
            self.why = why
        log("interrupting", run=run_id, node=step, reason=why)
        if execution is not None:
            # at first its queries alone: an exception would come while dbt cleans up after them
            self._cancel_execution(execution, signalled=self._cancelled is execution)
            self._cancelled = execution


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
