"""A background thread that calls a function periodically and continues after exceptions.

The functions (of the reaper, the child monitor, the time limit enforcer, the worker registration and the lease renewer)
do one round per call. What fails in one round is done in the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

from workers.contract.log import log


class PeriodicThread:
    """Calls `work` every `interval` seconds.

    Args:
        name: name of the thread.
        work: the function.
        interval: seconds.
        failed: log message for a call that raised an exception. Exceptions other than Redis' are logged with traceback.
        phase: field `phase` of the log line.
    """

    def __init__(
        self, name: str, work: Callable[[], object], *, interval: float, failed: str, phase: str
    ) -> None:
        self._work, self._interval, self._failed, self._phase = work, interval, failed, phase
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. The first call follows after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Waits up to ten seconds for the current call."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._work()
            except Exception as error:  # noqa: BLE001, PERF203 - the thread must not end
                log(self._failed, phase=self._phase, error=str(error),
                    exc_info=not isinstance(error, redis.RedisError))  # fmt: skip
