"""What each process of a worker executes, where its parent can read it: in memory that both share.

A process that keeps the GIL can tell nobody anything; what it wrote here before, it need not tell.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

SLOTS = 256
_SIZE = 16 * 1024
_HEAD = struct.Struct("<II")  # length and checksum: a reader may come in the middle of a write


class Board:
    """A note for each process of the pool, by its place in the pool."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._memory = mmap.mmap(-1, slots * _SIZE)  # anonymous and shared: the pool's children are forked

    def post(self, slot: int, note: bytes) -> bool:
        """Write a process's note over its last one; whether there is room for it."""
        if not 0 <= slot < self._slots or len(note) > _SIZE - _HEAD.size:
            return False
        start = slot * _SIZE
        self._memory[start + _HEAD.size : start + _HEAD.size + len(note)] = note
        _HEAD.pack_into(self._memory, start, len(note), zlib.crc32(note))
        return True

    def clear(self, slot: int) -> None:
        """Take a process's note away."""
        if 0 <= slot < self._slots:
            _HEAD.pack_into(self._memory, slot * _SIZE, 0, 0)

    def notes(self) -> Iterator[bytes]:
        """Every note that is whole at this moment."""
        for start in range(0, self._slots * _SIZE, _SIZE):
            length, checksum = _HEAD.unpack_from(self._memory, start)
            if 0 < length <= _SIZE - _HEAD.size:
                note = self._memory[start + _HEAD.size : start + _HEAD.size + length]
                if zlib.crc32(note) == checksum:
                    yield note


board = Board()
"""This worker's."""
