"""Finds work whose worker died or whose message was lost, and puts it back.

Every worker has one, in a thread of its main process; any number may run at once, since each move is
one script of the ledger. After Redis came back from a restart, or from a time in which it answered
nobody or refused every write, it waits for as long as a lease lasts, so that whoever is alive can renew first.

It waits for half a lease after a pause of its own, or a jump of the server's clock: what stopped this process may
have stopped the machine with everybody who renews leases.
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
    """Looks at overdue watches, in rounds of `interval` seconds."""

    def __init__(
        self,
        ledger: Ledger,
        publish: Publish,
        *,
        queue: str,
        interval: float,
        strays: StaleLockHolders | None = None,
    ) -> None:
        self._ledger, self._publish = ledger, publish
        self._queue, self._interval, self._strays = queue, interval, strays
        self._server: str | None = None
        self._quiet = 0.0  # seconds for which this reaper has still to run before it puts anything back
        self._clocks: tuple[float, float] | None = None  # this machine's and the server's at the last sweep
        self._last_dispatch = 0.0

    def sweep(self) -> int:
        """Look once; how many steps were put back or published again.

        Raises:
            redis.RedisError: nothing is lost by that; the next sweep finds it.
        """
        try:
            return self._sweep()
        except redis.ResponseError as error:
            if is_wrong_type(error) and (removed := self._ledger.remove_wrong_types()):
                log("keys of another type were removed", level=logging.WARNING, keys=removed, phase="reap")
                return 0
            self._wait_for_renewals("server was away")
            raise
        except redis.RedisError:
            self._wait_for_renewals("server was away")
            raise

    def _sweep(self) -> int:
        began = time.monotonic()
        self._ledger.try_a_write()  # who cannot write could not renew a lease either
        now = self._ledger.server_time()
        self._look_at_the_clocks(now)
        if self._server_is_fresh():
            return 0
        moved, now_ms = 0, int(now * 1000)
        empty = self._ledger.queue_length(self._queue) == 0
        overdue = self._ledger.overdue(queue_empty=empty)
        if time.monotonic() - began > self._ledger.lease_ms / 3000:
            self._wait_for_renewals("server was slow")
            return 0
        for run_id, step in overdue:
            moved += self._try_to_look(run_id, step, now_ms)
            if self._is_waiting():
                return moved
        if self._strays is not None:
            self._strays.end()
        if time.monotonic() - self._last_dispatch > 5 * self._interval:
            self._last_dispatch = time.monotonic()
            self._ledger.forget_dead_workers()
            # nothing should be found here: each move hands out what it made ready
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

    def _try_to_look(self, run_id: str, step: str, looked_ms: int) -> int:
        """Look at one step. A run whose state is damaged delays no other."""
        try:
            return self._look(run_id, step, looked_ms)
        except redis.ResponseError as error:
            self._skip(error, run_id, step)
            self._ledger.look_later(run_id, step)
            return 0

    def _skip(self, error: redis.ResponseError, run_id: str, step: str) -> None:
        """Log that the state of a run is damaged.

        Raises:
            redis.ResponseError: it is the server's, not the run's.
        """
        if isinstance(error, redis.OutOfMemoryError) or not is_damaged(error):
            raise error
        log("the state of a run is damaged, `dbt-relay purge RUN --force` removes it", level=logging.WARNING,
            run=run_id, node=step, error=str(error)[:200], phase="reap")  # fmt: skip

    def _look(self, run_id: str, step: str, looked_ms: int) -> int:
        answer = self._ledger.reap(run_id, step, looked_ms)
        what = answer["what"]
        if what == "late":
            self._wait_for_renewals("server was slow")
            return 0
        if what == "publish":
            log("message lost, sent again", run=run_id, node=step, phase="reap")
            self._publish(run_id, (step,))
        if what == "lost":
            log("worker lost", level=logging.WARNING, run=run_id, node=step, worker=answer.get("owner"),
                losses=answer["losses"], phase="reap")  # fmt: skip
        elif what == "deadline":
            log("deadline passed, cancelling", level=logging.WARNING, run=run_id, phase="reap")
        self._publish(run_id, answer["publish"])
        return int(what != "nothing")

    def _server_is_fresh(self) -> bool:
        info: Any = self._ledger.client.info("server")
        if info["run_id"] != self._server:
            known = self._server is not None
            self._server = info["run_id"]
            if known or info["uptime_in_seconds"] < self._ledger.lease_ms / 1000:
                self._wait_for_renewals("server restarted")
        return self._is_waiting()

    def _look_at_the_clocks(self, server_time: float) -> None:
        """Count how long this reaper was running, and wait for renewals where it was not for a while."""
        now, before = (lease_clock(), server_time), self._clocks
        self._clocks = now
        if before is None:
            return
        away = max(now[0] - before[0], now[1] - before[1])
        was_quiet = self._is_waiting()
        # After a pause nobody knows how much of it the others were running: it counts as two sweeps. So a reaper
        # that is starved for long waits too, but not for ever.
        self._quiet -= min(max(0.0, away), 2 * self._interval)
        if not was_quiet and away > self._interval + self._ledger.lease_ms / 3000:
            self._wait_for_renewals("this reaper was away", self._ledger.lease_ms / 2000)

    def _wait_for_renewals(self, why: str, seconds: float | None = None) -> None:
        self._quiet = self._ledger.lease_ms / 1000 if seconds is None else seconds
        log(f"{why}, waiting for renewals", phase="reap")

    def _is_waiting(self) -> bool:
        return self._quiet > 0
