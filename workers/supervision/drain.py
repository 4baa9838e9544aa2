"""Whether this worker is stopping, and until when its steps may go on: said by its parent, seen by its pool."""

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
    """Start no further step, and hand back after `grace` seconds what is not done by then.

    Called again, the earlier end counts.
    """
    # one clock for all processes of a machine (clock_gettime(2), CLOCK_MONOTONIC)
    until = min(time.monotonic() + grace, time.monotonic() + seconds_left())
    _UNTIL.pack_into(_shared, 1, until)
    _shared[0] = 1


def draining() -> bool:
    """Whether `drain` was called in this process or in the one it was forked from."""
    return _shared[0] != 0


def seconds_left() -> float:
    """How long steps may still go on: infinite while nobody stops the worker, never negative."""
    if not draining():
        return math.inf
    (until,) = _UNTIL.unpack_from(_shared, 1)
    return max(0.0, float(until) - time.monotonic())
