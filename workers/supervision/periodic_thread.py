"""Something that is looked at again and again, in a thread that outlives whatever goes wrong there.

Its users (reaper, warden, timekeeper, presence, the guard of the leases) look once per call and keep what
they could not do for their next look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

from workers.contract.log import log


class PeriodicThread:
    """Calls `look` every `interval` seconds.

    Args:
        name: the thread's.
        interval: seconds.
        failed: what to say of a look that raised; errors that are not Redis' are said with their traceback.
        phase: the log line's.
    """

    def __init__(
        self, name: str, look: Callable[[], object], *, interval: float, failed: str, phase: str
    ) -> None:
        self._look, self._interval, self._failed, self._phase = look, interval, failed, phase
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first look is after the first interval."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits up to ten seconds for a look that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001, PERF203 - the thread must not end
                log(self._failed, phase=self._phase, error=str(error),
                    exc_info=not isinstance(error, redis.RedisError))  # fmt: skip
