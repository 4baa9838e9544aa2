"""Notices that a process of this worker's pool died, says what of, and puts back what it executed.

A lease would run out too, but the parent knows at once, and knows more: the signal, and how much memory
the process had. Celery itself waits ten seconds before it gives a lost process's task up (billiard.pool).
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
    """Looks at the pool's processes, in rounds of `INTERVAL` (seconds).

    Args:
        processes: gives the pool's present ones, each with a ``pid`` and an ``exitcode`` (None: alive).
    """

    INTERVAL = 0.5

    def __init__(self, ledger: Ledger, publish: Publish, processes: Callable[[], Sequence[Any]]) -> None:
        self._ledger, self._publish, self._processes = ledger, publish, processes
        self._known: dict[int, Any] = {}
        self._peaks: dict[int, int] = {}
        self._dead: list[tuple[int, Death]] = []
        self._kills = memory.kills()

    def check(self) -> None:
        """Look once.

        Raises:
            redis.RedisError: what could not be reported is, at the next look.
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
            log("worker process lost", run=run_id, node=step, worker=owner, reason=death.reason,
                peak=memory.readable(death.peak), phase="reap")  # fmt: skip
            self._publish(run_id, publish)
