"""Caches a value computed from a file until the file changes: size, inode or time stamps.

A file that was changed less than `RACY_SECONDS` before it was read is read again: a further change may have left the
same time stamp (git calls such index entries racy).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

RACY_SECONDS = 2.0


class FileCache(Generic[T]):
    """Values by path, for this process. `read` computes the value of a path."""

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read
        self._known: dict[str, tuple[tuple[int, int, int, int], float, T]] = {}

    def value(self, path: str) -> T:
        """Return the value of the file's current content.

        Raises:
            OSError: the file does not exist. Exceptions of `read` are passed on.
        """
        stat, looked_at = os.stat(path), time.time()
        shape = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        known = self._known.get(path)
        if known and known[0] == shape and known[1] - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS:
            return known[2]
        value = self._read(path)
        self._known[path] = (shape, looked_at, value)
        return value
