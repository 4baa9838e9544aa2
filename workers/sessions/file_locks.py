"""Which process has a DuckDB file locked.

DuckDB locks the files that it opens with fcntl. On Linux, fcntl also returns the lock that conflicts with a wanted one,
and its process (F_GETLK in fcntl_locking(2)).
"""

from __future__ import annotations

import fcntl
import os
import platform
import struct
import sys
from typing import Final

import msgspec

from workers.contract.keys import READ

LINUX: Final = platform.system() == "Linux"
NOBODY: Final = -1

_FLOCK: Final = "hhqqi4x"
"""struct flock: type, whence, start, length, pid."""


def locked_by(path: str, *, to_read: bool = False) -> int | None:
    """The process whose lock prevents this process from opening a file.

    Args:
        to_read: whether the file is only read; locks of other readers do not conflict then.

    Returns:
        its PID; 0 if it has no PID here (it is of another machine or PID namespace); `NOBODY` if there is no such lock;
        None if the system does not tell.
    """
    if not LINUX or sys.maxsize < 2**32:
        return None
    if _is_open_here(path):
        return NOBODY  # opening and closing it here would release this process's own lock
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return NOBODY
    except OSError:
        return None
    try:
        wanted = fcntl.F_RDLCK if to_read else fcntl.F_WRLCK
        asked = struct.pack(_FLOCK, wanted, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return None
    finally:
        os.close(file)
    return NOBODY if kind == fcntl.F_UNLCK else max(pid, 0)


class Locked(msgspec.Struct, frozen=True):
    """A file that another program has open. `pid`: 0 if that program has no PID here."""

    path: str
    pid: int

    @property
    def who(self) -> str:
        """``PID 7 (/usr/bin/python3)``."""
        program = program_of(self.pid)
        name = f"PID {self.pid}" if self.pid else "a program of another machine or container"
        return f"{name} ({program})" if program else name

    @property
    def as_duckdb_says(self) -> str:
        """DuckDB's error text for opening the file."""
        text = f'IO Error: Could not set lock on file "{self.path}"'
        if not self.pid:
            return text
        return f"{text}: Conflicting lock is held in {program_of(self.pid)} (PID {self.pid})"


def first_locked(warehouse: str) -> Locked | None:
    """The first file of a warehouse (`contract.keys.warehouse_of_files`) that another program has locked, or None."""
    for line in warehouse.split("\n"):
        path = line.removeprefix(READ).partition(":")[2]
        pid = locked_by(path, to_read=line.startswith(READ))
        if pid is not None and pid != NOBODY:
            return Locked(path, pid)
    return None


def program_of(pid: int) -> str:
    """Path of a process's executable; empty if the system does not tell."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _is_open_here(path: str) -> bool:
    names = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return any(os.path.realpath(name) == path for name in names)
