"""The drain state of this worker, in memory shared by its main process and its pool: whether it is stopping, and when
its steps must end."""

from __future__ import annotations

import math
import mmap
import struct
import time

_UNTIL = struct.Struct("=d")
_shared = mmap.mmap(
    -1, 1 + _UNTIL.size
)  # anonymous and shared: the pool's children are forked from this process


def drain(grace: float) -> None:
    """Start no further steps, and hand back unfinished steps after `grace` seconds. A later call cannot extend this."""
    # CLOCK_MONOTONIC (clock_gettime(2)) is the same in all processes of a machine
    until = min(time.monotonic() + grace, time.monotonic() + seconds_left())
    _UNTIL.pack_into(_shared, 1, until)
    _shared[0] = 1


def draining() -> bool:
    """Whether `drain` was called, in this process or in the process that it was forked from."""
    return _shared[0] != 0


def seconds_left() -> float:
    """Return the seconds for which steps may continue: infinite if the worker is not draining, never negative."""
    if not draining():
        return math.inf
    (until,) = _UNTIL.unpack_from(_shared, 1)
    return max(0.0, float(until) - time.monotonic())
