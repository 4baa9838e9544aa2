"""Requeues steps whose lease expired because their worker died, and sends lost messages again.

Every worker has a reaper, in a thread of its main process. Any number of reapers may run at once: each change of state
is one ledger script.

A reaper must not requeue a step whose worker is alive but could not renew the lease. So it waits for the time of one
lease after Redis restarted, did not answer, or refused every write: live workers renew their leases in this time. It
waits for half a lease after a pause of its own process or a jump of the server's clock: the whole machine, with the
workers on it, may have been paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from workers.contract.log import log
from workers.contract.redis_values import is_damaged, is_wrong_type
from workers.ledger.ledger import Ledger
from workers.ledger.records import lease_clock
from workers.sessions.stale_lock_holders import StaleLockHolders

Publish = Callable[[str, Sequence[str]], None]


class Reaper:
    """Processes overdue leases and watches. Call `sweep` every `interval` seconds.

    Args:
        ledger: the ledger.
        publish: publishes the steps of a run.
        queue: the Celery queue.
        interval: seconds between two sweeps.
        stale_holders: ends stale lock holders on this host; None: nothing is ended.
    """

    def __init__(
        self,
        ledger: Ledger,
        publish: Publish,
        *,
        queue: str,
        interval: float,
        stale_holders: StaleLockHolders | None = None,
    ) -> None:
        self._ledger, self._publish = ledger, publish
        self._queue, self._interval, self._stale_holders = queue, interval, stale_holders
        self._server_id: str | None = None  # Redis' id of the server process
        self._wait = 0.0  # seconds of running time before this reaper requeues steps again
        self._clocks: tuple[float, float] | None = None  # this machine's and the server's at the last sweep
        self._last_dispatch = 0.0

    def sweep(self) -> int:
        """Process what is overdue.

        Returns:
            How many steps were requeued or published again.

        Raises:
            redis.RedisError: the rest is left to the next sweep.
        """
        try:
            return self._sweep()
        except redis.ResponseError as error:
            if is_wrong_type(error) and (removed := self._ledger.remove_wrong_types()):
                log("keys of another type were removed", level=logging.WARNING, keys=removed, phase="reap")
                return 0
            self._wait_for_renewals("server was down")
            raise
        except redis.RedisError:
            self._wait_for_renewals("server was down")
            raise

    def _sweep(self) -> int:
        began = time.monotonic()
        self._ledger.try_a_write()  # if the server refuses writes, no worker can renew a lease
        now = self._ledger.server_time()
        self._check_clocks(now)
        if self._must_wait():
            return 0
        moved, now_ms = 0, int(now * 1000)
        empty = self._ledger.queue_length(self._queue) == 0
        overdue = self._ledger.overdue(queue_empty=empty)
        if time.monotonic() - began > self._ledger.lease_ms / 3000:
            self._wait_for_renewals("server was slow")
            return 0
        for run_id, step in overdue:
            moved += self._try_to_reap(run_id, step, now_ms)
            if self._is_waiting():
                return moved
        if self._stale_holders is not None:
            self._stale_holders.end()
        if time.monotonic() - self._last_dispatch > 5 * self._interval:
            self._last_dispatch = time.monotonic()
            self._ledger.forget_dead_workers()
            # a safety net: each ledger script publishes the steps that it made ready
            for run_id in self._ledger.some_active_runs():
                moved += self._dispatch(run_id)
        return moved

    def _dispatch(self, run_id: str) -> int:
        try:
            steps = self._ledger.dispatch(run_id)
        except redis.ResponseError as error:
            self._skip(error, run_id, "")
            return 0
        self._publish(run_id, steps)
        return len(steps)

    def _try_to_reap(self, run_id: str, step: str, looked_ms: int) -> int:
        """Process one overdue step. A run whose state is damaged does not delay other runs."""
        try:
            return self._reap(run_id, step, looked_ms)
        except redis.ResponseError as error:
            self._skip(error, run_id, step)
            self._ledger.look_later(run_id, step)
            return 0

    def _skip(self, error: redis.ResponseError, run_id: str, step: str) -> None:
        """Log that the state of a run is damaged.

        Raises:
            redis.ResponseError: the error comes from the server, not from the run's state.
        """
        if isinstance(error, redis.OutOfMemoryError) or not is_damaged(error):
            raise error
        log("the state of a run is damaged, `dbt-relay purge RUN --force` removes it", level=logging.WARNING,
            run=run_id, node=step, error=str(error)[:200], phase="reap")  # fmt: skip

    def _reap(self, run_id: str, step: str, looked_ms: int) -> int:
        answer = self._ledger.reap(run_id, step, looked_ms)
        what = answer["what"]
        if what == "late":
            self._wait_for_renewals("server was slow")
            return 0
        if what == "publish":
            log("message lost, sent again", run=run_id, node=step, phase="reap")
            self._publish(run_id, (step,))
        if what == "lost":
            log("step requeued: its lease expired", level=logging.WARNING, run=run_id, node=step, worker=answer.get("owner"),
                losses=answer["losses"], phase="reap")  # fmt: skip
        elif what == "deadline":
            log("deadline passed, cancelling the run", level=logging.WARNING, run=run_id, phase="reap")
        self._publish(run_id, answer["publish"])
        return int(what != "nothing")

    def _must_wait(self) -> bool:
        """Whether to requeue nothing now, because the server restarted or workers need time to renew their leases."""
        info: Any = self._ledger.client.info("server")
        if info["run_id"] != self._server_id:
            known = self._server_id is not None
            self._server_id = info["run_id"]
            if known or info["uptime_in_seconds"] < self._ledger.lease_ms / 1000:
                self._wait_for_renewals("server restarted")
        return self._is_waiting()

    def _check_clocks(self, server_time: float) -> None:
        """Measure how long this reaper ran since the last sweep, and start to wait if it was paused in between."""
        now, before = (lease_clock(), server_time), self._clocks
        self._clocks = now
        if before is None:
            return
        elapsed = max(now[0] - before[0], now[1] - before[1])
        was_waiting = self._is_waiting()
        # During a pause of this reaper, other workers may have been paused too, so they may not have renewed their
        # leases. The time since the last sweep counts as two intervals at most. So a reaper that gets little CPU time
        # waits longer, but not forever.
        self._wait -= min(max(0.0, elapsed), 2 * self._interval)
        if not was_waiting and elapsed > self._interval + self._ledger.lease_ms / 3000:
            self._wait_for_renewals("this reaper was paused", self._ledger.lease_ms / 2000)

    def _wait_for_renewals(self, why: str, seconds: float | None = None) -> None:
        self._wait = self._ledger.lease_ms / 1000 if seconds is None else seconds
        log(f"{why}, waiting for renewals", phase="reap")

    def _is_waiting(self) -> bool:
        return self._wait > 0
