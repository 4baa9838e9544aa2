"""Notices that a process of this worker's pool died, says what of, and puts back what it executed.

A lease would run out too, but the parent knows at once, and knows more: the signal, and how much memory
the process had. Celery itself waits ten seconds before it gives a lost process's task up (billiard.pool).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis

from workers import memory
from workers.contract.log import log
from workers.ledger import Death, Ledger

INTERVAL = 0.5
Publish = Callable[[str, Sequence[str]], None]


class Warden:
    """Looks at the pool's processes every half second.

    Args:
        processes: gives the pool's present ones, each with a ``pid`` and an ``exitcode`` (None: alive).
    """

    def __init__(self, ledger: Ledger, publish: Publish, processes: Callable[[], Sequence[Any]]) -> None:
        self._ledger, self._publish, self._processes = ledger, publish, processes
        self._known: dict[int, Any] = {}
        self._peaks: dict[int, int] = {}
        self._dead: list[tuple[int, Death]] = []
        self._kills = memory.kills()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="warden", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001, PERF203 - the thread must not end
                log("a dead process could not be reported", phase="reap", error=str(error),
                    exc_info=not isinstance(error, redis.RedisError))  # fmt: skip

    def look(self) -> None:
        """Look once."""
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
