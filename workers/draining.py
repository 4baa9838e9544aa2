"""Whether this worker is stopping: said by its parent, seen by every process of its pool."""

from __future__ import annotations

import mmap

_flag = mmap.mmap(-1, 1)  # anonymous and shared: the pool's children are forked from this process


def drain() -> None:
    """Start no further step."""
    _flag[0] = 1


def draining() -> bool:
    """Whether `drain` was called in this process or in the one it was forked from."""
    return _flag[0] != 0
