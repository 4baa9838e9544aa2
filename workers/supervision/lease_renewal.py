"""Renews the leases of the steps that this process executes, from a background thread.

While this thread cannot run, the worker's main process renews them (`workers.supervision.child_lease_renewal`).

A step is interrupted in these cases:

- Its lease expired and another process has the step (`LOST`).
- Redis did not answer for the time of a lease, so that another process may have the step (`LOST`).
- Its run was cancelled or ended early (`STOP`).
- This worker is draining and its time is up (`DRAIN`).

An interruption first cancels the step's queries. If the step still runs at the next renewal, `StepInterrupted` is raised
in the thread that executes it. While Redis is down (nothing listens, or it loads its data) no process can be given the
step, so it continues. After the restart reapers wait until its lease can be renewed (`workers.supervision.reaper`).

When a node passes its time limit, its queries are cancelled too. One second later an exception that dbt handles is
raised in it, so that dbt lets the node fail. A node that does not react is ended by killing its process
(`workers.supervision.time_limit_enforcement`), for which the node is published here.
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
from workers.supervision.time_limit_enforcement import TimedNode
from workers.supervision.time_limits import GRACE, NodeLimits, Overrun

LOST, STOP, DRAIN = "lost", "stop", "drain"
_SIGNAL = signal.SIGUSR2


class StepInterrupted(KeyboardInterrupt):
    """The step must end: its lease is lost (`LOST`), its run is being stopped (`STOP`), or its worker is draining and
    the time is up (`DRAIN`)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class LeaseLostError(Exception):
    """This process cannot prove that it still has the lease of a step."""


class LeaseRenewer:
    """Renews the leases of this process, and checks the time limit of the node that it executes."""

    def __init__(
        self,
        ledger: Ledger,
        cancel: Callable[[], None],
        *,
        too_long: Callable[[str], Exception] = TimeoutError,
        publish_node: Callable[[TimedNode | None], None] = lambda _: None,
        publish_leases: Callable[[list[Lease]], None] = lambda _: None,
        renewed: Callable[[], Mapping[Key, float]] = dict,
    ) -> None:
        """
        Args:
            ledger: the ledger.
            cancel: cancels the queries of the executing step.
            too_long: creates the exception that is raised in a node after its time limit, from a text.
            publish_node: publishes the executing node and its time limits to the worker's main process.
            publish_leases: publishes the leases of this process to the worker's main process.
            renewed: returns the leases that the main process renewed, and their expiry (`child_lease_renewal`).
        """
        self._ledger = ledger
        self._cancel = cancel
        self._too_long, self._publish_node = too_long, publish_node
        self._publish_leases, self._renewed = publish_leases, renewed
        self._held: dict[str, dict[str, int]] = {}  # run -> step -> fence
        self._sure_until: dict[tuple[str, str], float] = {}  # run and step -> expiry, by `lease_clock`
        self._lock = threading.Lock()
        self._started = False
        self._last_check = 0.0  # time of the last expiry check, by `lease_clock`
        self.why: str | None = None  # why the executing step must end: `LOST`, `STOP` or `DRAIN`
        self._execution: object | None = None
        self._cancelled: object | None = None
        self._raised: object | None = None
        self._interrupting = threading.Lock()
        self._claim: Claim | None = None
        self._timed: TimedNode | None = None
        self._raise_at: float | None = None
        self.overrun: Overrun | None = None
        self._interval = interval_of(ledger.lease_ms)

    @contextlib.contextmanager
    def session(self, session: Session) -> Iterator[None]:
        """Renew the lock of a session inside the block."""
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
        """Renew the lease of a claim inside the block.

        Raises:
            StepInterrupted: inside the block, within `interruptible`.
        """
        self._start()
        with self._lock:
            # the lease may have expired before the answer to the claim arrived
            self.why = None if claim.sure_until > lease_clock() else LOST
            self._held.setdefault(claim.run_id, {})[claim.step] = claim.fence
            self._sure_until[claim.run_id, claim.step] = claim.sure_until
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
        """Execute dbt inside the block. Interruptions are raised there only.

        Args:
            limits: time limits of the claimed node. After one has passed, `overrun` is set until the next claim, even if
                the node finishes.
            owner: name of this process, ``host:pid``.
            fail_fast: whether the node's failure ends its run.

        Raises:
            StepInterrupted: the step must end.
        """
        previous = signal.signal(_SIGNAL, self._raise) if _in_main_thread() else None
        out_of_grace: threading.Timer | None = None
        try:
            with self._interrupting:
                self._set_timed_node(limits, owner, fail_fast=fail_fast)
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
            with self._interrupting:  # a running cancellation must not reach the next step
                self._set_timed_node(None)
            if previous is not None:
                signal.signal(_SIGNAL, previous)

    def _set_timed_node(self, limits: NodeLimits | None, owner: str = "", *, fail_fast: bool = False) -> None:
        before, self._timed, self._raise_at = self._timed, None, None
        if limits is not None and limits.first and self._claim is not None:
            now = time.monotonic()
            self._timed = TimedNode(
                pid=os.getpid(), owner=owner, claim=msgspec.structs.replace(self._claim, publish=()),
                limits=limits, began=time.time(), since=now, fail_fast=fail_fast,
            )  # fmt: skip
        if self._timed is not None or before is not None:
            self._publish_node(self._timed)

    def check(self) -> None:
        """Check whether the step was interrupted. Call it after the execution too: a step whose queries were cancelled by
        an interruption has not failed.

        Raises:
            StepInterrupted: it was.
        """
        if self.why is not None:
            raise StepInterrupted(self.why)

    def _check_lease(self) -> None:
        """Check the lease before dbt starts: this process may have been stopped (SIGSTOP) since it claimed the step.

        Raises:
            StepInterrupted: the lease is lost.
        """
        try:
            self.assure()
        except LeaseLostError:
            self.why = LOST
        except redis.RedisError as error:
            log("lease not checked", error=str(error), phase="beat")  # `_check_expiry` checks it again
        self.check()

    def _raise(self, _signum: int, _frame: object) -> None:
        if self._execution is None:
            return
        self.check()
        if self.overrun is not None:
            raise self._too_long(self.overrun.text)

    def _check_time_limit(self) -> None:
        """After the time limit of the node, cancel its queries, and after `GRACE` raise an exception in it. Each once."""
        execution, timed = self._execution, self._timed
        if timed is None or execution is None:
            return
        elapsed = time.monotonic() - timed.since
        if self.overrun is None and elapsed >= timed.limits.first:
            log("time limit passed", run=timed.claim.run_id, node=timed.claim.step,
                seconds=round(elapsed, 1))  # fmt: skip
            self._cancel_execution(execution, overrun=timed.limits.passed(elapsed))
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
            # in a thread: a database server that does not answer must not delay the renewal of leases
            cancelling = threading.Thread(target=self._try_to_cancel, name="cancel", daemon=True)
            cancelling.start()
            cancelling.join(self._interval)
            if signalled:
                self._raised = execution
                os.kill(os.getpid(), _SIGNAL)

    def _try_to_cancel(self) -> None:
        with contextlib.suppress(Exception):  # if the driver fails, the signal follows anyway
            self._cancel()

    def assure(self) -> None:
        """Make sure that this process still has the leases of its steps.

        Usually the clock proves it: no other process is given a step before its lease expires. Otherwise, such as after
        a pause of this process, the leases are renewed.

        Raises:
            LeaseLostError: another process has a step.
            redis.RedisError: the ledger cannot be reached.
        """
        unsure = self._unsure(lease_clock(), unknown=0.0)
        for run_id in unsure:
            with self._lock:
                steps = dict(self._held.get(run_id, {}))
            for step, _, answer in self._renew(run_id, steps):
                if answer == LOST:
                    raise LeaseLostError(
                        f"{step} was given to another worker: this worker did not renew its lease in time"
                    )

    def _renew(self, run_id: str, steps: dict[str, int]) -> list[tuple[str, int, str]]:
        """Renew the leases of a run. Returns step, fence and answer of each."""
        answers, until = renew(self._ledger, run_id, steps.items())
        renewed = [
            (step, fence, answer) for (step, fence), answer in zip(steps.items(), answers, strict=True)
        ]
        with self._lock:
            for step, fence, answer in renewed:
                if answer != LOST and self._held.get(run_id, {}).get(step) == fence:
                    self._sure_until[run_id, step] = until
            self._post_leases()
        return renewed

    def _post_leases(self) -> None:
        self._publish_leases(
            [
                Lease(run_id, step, fence, self._sure_until.get((run_id, step), 0.0))
                for run_id, steps in self._held.items()
                for step, fence in steps.items()
            ]
        )

    def _unsure(self, at: float, *, unknown: float) -> dict[str, dict[str, int]]:
        """Return the steps that another process may have been given before a time, by run and step.

        Args:
            at: the time, by `lease_clock`.
            unknown: the expiry to assume for a lease that was not renewed yet, such as a new session's.
        """
        renewed = self._renewed()
        with self._lock:
            unsure = {
                run_id: {
                    step: fence
                    for step, fence in steps.items()
                    if at >= max(
                        self._sure_until.get((run_id, step), unknown), renewed.get((run_id, step, fence), 0.0)
                    )
                }
                for run_id, steps in self._held.items()
            }  # fmt: skip
        return {run_id: steps for run_id, steps in unsure.items() if steps}

    def _drop(self, run_id: str, step: str) -> None:
        steps = self._held.get(run_id, {})
        steps.pop(step, None)
        self._sure_until.pop((run_id, step), None)
        if not steps:
            self._held.pop(run_id, None)
        self._post_leases()

    def _start(self) -> None:
        if self._started:
            return
        self._started, self._last_check = True, lease_clock()
        PeriodicThread(
            "lease-renewal",
            self._renew_all,
            interval=self._interval,
            failed="leases not renewed",
            phase="beat",
        ).start()
        PeriodicThread(
            "lease-expiry",
            self._check_expiry,
            interval=self._interval / 4,
            failed="leases not checked",
            phase="beat",
        ).start()

    def _check_expiry(self) -> None:
        """Interrupt a step shortly before its lease expires, while its renewal still waits for an answer.

        The first call cancels its queries; the second one, also before the expiry, raises an exception in it.
        """
        margin, now = self._interval / 2, lease_clock()
        was_paused, self._last_check = now - self._last_check > self._interval, now
        if was_paused or (self.why is not None and self._raised is self._execution):
            return  # after a pause of this process the ledger decides: the step may not have been given away
        unsure = self._unsure(now + margin, unknown=math.inf)
        if unsure:
            log("leases about to expire, Redis did not answer", phase="beat")
            self._interrupt_all(unsure, LOST)

    def _renew_all(self) -> None:
        self._check_time_limit()
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
                        # interrupted because its lease seemed to expire: it is handed back although it did not
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
                if step != SESSION:  # a session ends after its step
                    self._interrupt(run_id, step, fence, why)

    def _interrupt(self, run_id: str, step: str, fence: int, why: str) -> None:
        execution = self._execution
        with self._lock:
            if self._held.get(run_id, {}).get(step) != fence:
                return  # finished meanwhile
            self.why = why
        log("interrupting the step", run=run_id, node=step, reason=why)
        if execution is not None:
            # first cancel its queries only: an exception would disturb dbt's clean-up after them
            self._cancel_execution(execution, signalled=self._cancelled is execution)
            self._cancelled = execution


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
