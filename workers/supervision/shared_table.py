"""Shared-memory tables with one note for each pool process, for the worker's main process and its pool.

A process that keeps Python's global lock (GIL) can answer nobody. What it wrote here before can still be read.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

SLOTS = 256
_ITEM_BYTES = 16 * 1024
_HEAD = struct.Struct("<II")  # length and checksum: a reader may come in the middle of a write


class SharedTable:
    """A note for each process of the pool, by its place in the pool. One process writes each note."""

    def __init__(self, slots: int = SLOTS, item_bytes: int = _ITEM_BYTES) -> None:
        self._slots, self._item = slots, item_bytes
        # anonymous and shared: the pool's children are forked
        self._memory = mmap.mmap(-1, slots * item_bytes)

    def write(self, slot: int, note: bytes) -> bool:
        """Write a process's note over its last one; whether there is room for it."""
        if not 0 <= slot < self._slots or len(note) > self._item - _HEAD.size:
            return False
        start = slot * self._item
        self._memory[start + _HEAD.size : start + _HEAD.size + len(note)] = note
        _HEAD.pack_into(self._memory, start, len(note), zlib.crc32(note))
        return True

    def clear(self, slot: int) -> None:
        """Take a process's note away."""
        if 0 <= slot < self._slots:
            _HEAD.pack_into(self._memory, slot * self._item, 0, 0)

    def read(self, slot: int) -> bytes | None:
        """The note of a process, or None where there is none or it is being written at this moment."""
        if not 0 <= slot < self._slots:
            return None
        start = slot * self._item
        length, checksum = _HEAD.unpack_from(self._memory, start)
        if not 0 < length <= self._item - _HEAD.size:
            return None
        note = self._memory[start + _HEAD.size : start + _HEAD.size + length]
        return note if zlib.crc32(note) == checksum else None

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Place in the pool and note of each process that has a whole one at this moment."""
        for slot in range(self._slots):
            note = self.read(slot)
            if note is not None:
                yield slot, note

    def values(self) -> Iterator[bytes]:
        """Every note that is whole at this moment."""
        return (note for _, note in self.items())


timed_nodes = SharedTable()
"""What each pool process of this worker executes under a time limit (`workers.supervision.time_limit_enforcement`)."""
