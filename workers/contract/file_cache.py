"""What was worked out of a file, kept for as long as the file looks untouched.

A file changed so recently that its time stamp could hide another change is always read (git's index calls
such entries racy).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

RACY_SECONDS = 2.0


class FileCache(Generic[T]):
    """Values by path, for this process. `read` works one out."""

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read
        self._known: dict[str, tuple[tuple[int, int, int, int], float, T]] = {}

    def value(self, path: str) -> T:
        """The value of a file as it is now.

        Raises:
            OSError: there is no such file; or whatever `read` raises.
        """
        stat, looked_at = os.stat(path), time.time()
        shape = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        known = self._known.get(path)
        if known and known[0] == shape and known[1] - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS:
            return known[2]
        value = self._read(path)
        self._known[path] = (shape, looked_at, value)
        return value
