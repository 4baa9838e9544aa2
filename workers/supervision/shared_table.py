"""Shared-memory tables with one entry for each pool process, for the worker's main process and its pool.

A pool process that holds Python's global lock (GIL) cannot answer messages. Other processes can still read its entry.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

SLOTS = 256
_ITEM_BYTES = 16 * 1024
_HEAD = struct.Struct("<II")  # length and checksum, which detects an entry that is being written


class SharedTable:
    """A table with one entry per slot. The slot is the process's index in the pool; one process writes each entry."""

    def __init__(self, slots: int = SLOTS, item_bytes: int = _ITEM_BYTES) -> None:
        self._slots, self._item = slots, item_bytes
        # an anonymous shared mapping: forked pool processes inherit it
        self._memory = mmap.mmap(-1, slots * item_bytes)

    def write(self, slot: int, entry: bytes) -> bool:
        """Replace the entry of a slot. Returns False if the slot does not exist or the entry is too large."""
        if not 0 <= slot < self._slots or len(entry) > self._item - _HEAD.size:
            return False
        start = slot * self._item
        self._memory[start + _HEAD.size : start + _HEAD.size + len(entry)] = entry
        _HEAD.pack_into(self._memory, start, len(entry), zlib.crc32(entry))
        return True

    def clear(self, slot: int) -> None:
        """Remove the entry of a slot."""
        if 0 <= slot < self._slots:
            _HEAD.pack_into(self._memory, slot * self._item, 0, 0)

    def read(self, slot: int) -> bytes | None:
        """Return the entry of a slot, or None if it has no entry or the entry is being written."""
        if not 0 <= slot < self._slots:
            return None
        start = slot * self._item
        length, checksum = _HEAD.unpack_from(self._memory, start)
        if not 0 < length <= self._item - _HEAD.size:
            return None
        entry = self._memory[start + _HEAD.size : start + _HEAD.size + length]
        return entry if zlib.crc32(entry) == checksum else None

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Yield slot and entry, except for entries that are being written."""
        for slot in range(self._slots):
            entry = self.read(slot)
            if entry is not None:
                yield slot, entry

    def values(self) -> Iterator[bytes]:
        """Yield the entries, except for those that are being written."""
        return (entry for _, entry in self.items())


timed_nodes = SharedTable()
"""`TimedNode` of each pool process of this worker that executes a node with a time limit, written by the pool process
(`workers.supervision.time_limit_enforcement`)."""
