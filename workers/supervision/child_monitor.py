"""Detects that a pool process of this worker died, records the cause, and requeues its steps.

The reaper would requeue them too when their leases expire. The main process knows at once, and also knows the signal
and the memory use. Celery itself waits ten seconds before it gives up the task of a lost process (billiard.pool).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from workers.contract.log import log
from workers.ledger.ledger import Ledger
from workers.ledger.records import Death
from workers.supervision import memory

Publish = Callable[[str, Sequence[str]], None]


class ChildMonitor:
    """Reports dead pool processes to the ledger. Call `check` every `INTERVAL` seconds.

    Args:
        ledger: the ledger.
        publish: publishes the steps of a run.
        processes: returns the pool's current processes, each with a ``pid`` and an ``exitcode`` (None: alive).
    """

    INTERVAL = 0.5

    def __init__(self, ledger: Ledger, publish: Publish, processes: Callable[[], Sequence[Any]]) -> None:
        self._ledger, self._publish, self._processes = ledger, publish, processes
        self._known: dict[int, Any] = {}
        self._peaks: dict[int, int] = {}
        self._dead: list[tuple[int, Death]] = []
        self._kills = memory.kills()

    def check(self) -> None:
        """Report the processes that died since the last call.

        Raises:
            redis.RedisError: some could not be reported; the next call reports them.
        """
        for process in self._processes():
            self._known[process.pid] = process
        kills = memory.kills()
        for pid, process in list(self._known.items()):
            code = process.exitcode
            if code is None:
                self._peaks[pid] = max(self._peaks.get(pid, 0), memory.peak(pid))
                continue
            del self._known[pid]
            death = Death(
                code=code, peak=self._peaks.pop(pid, 0), limit=memory.limit(), oom=kills > self._kills
            )
            self._dead.append((pid, death))
        self._kills = kills
        while self._dead:
            pid, death = self._dead[0]
            self._report(pid, death)
            self._dead.pop(0)

    def _report(self, pid: int, death: Death) -> None:
        owner = f"{socket.gethostname()}:{pid}"
        for run_id, step, publish in self._ledger.bury(owner, death):
            log("step requeued: its process died", run=run_id, node=step, worker=owner, reason=death.reason,
                peak=memory.readable(death.peak), phase="reap")  # fmt: skip
            self._publish(run_id, publish)
