"""Processes that lost a session and may still have its file open: suspended, swapped out or disconnected.

The fcntl lock of a DuckDB file belongs to the process and ends only with it. If such a process went on with its
transaction after another run's session, it would overwrite that run's data. So any worker of the same machine kills it
if it still has the file locked. Workers of other machines wait until it releases the file.

A process is identified by its boot and PID namespace, its PID and its start time, so that no process is killed that got
the same PID later.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import msgspec
import redis

from workers.contract.keys import Keys
from workers.contract.log import log
from workers.contract.redis_values import text_of, value_of
from workers.sessions.file_locks import LINUX, NOBODY, locked_by

_PREFIX: Final = "duckdb:"
_DYING_SECONDS: Final = 10.0
_LOGGED_AT_MOST: Final = 100


class Holder(msgspec.Struct, frozen=True):
    """The process that has a session's file open.

    Attributes:
        owner: ``host:pid``, for log lines and messages.
        place: boot and PID namespace in which `pid` is valid.
        started: its start time, as the system writes it.
    """

    warehouse: str
    owner: str
    place: str
    pid: int
    started: str

    @property
    def path(self) -> str:
        """Of the file."""
        return self.warehouse[len(_PREFIX) :]


def this_process(warehouse: str, owner: str) -> str:
    """The record of this process that the ledger keeps when it enters a session: a `Holder` as JSON."""
    pid = os.getpid()
    holder = Holder(warehouse, owner, _place(), pid, _started(pid))
    return msgspec.json.encode(holder).decode()


class StaleLockHolders:
    """Holders whose session was lost (`relay:strays` in Redis)."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client, self._key = client, keys.strays()
        self._unreadable: set[bytes] = set()

    def end(self, files: Collection[str] | None = None) -> list[Holder]:
        """Kill the processes of this machine that still have their file locked.

        Args:
            files: check only the holders of these files; None: all.

        Returns:
            holders that have it locked, or may have, and that this process cannot kill.
        """
        left = []
        entries: Any = self._client.hkeys(self._key)
        for entry in entries:
            holder = value_of(entry, Holder)
            if holder is None:
                self._note_unreadable(entry)
            elif files is None or holder.warehouse in files:
                if _end(holder):
                    self._client.hdel(self._key, entry)
                elif holds(holder) is not False:
                    left.append(holder)
        return left

    def _note_unreadable(self, entry: bytes) -> None:
        """Log an unreadable entry, once. It names no file to wait for."""
        if entry not in self._unreadable and len(self._unreadable) < _LOGGED_AT_MOST:
            self._unreadable.add(entry)
            log("an entry is not readable, `dbt-relay purge` removes it", key=self._key,
                entry=text_of(entry)[:100])  # fmt: skip


def _end(holder: Holder) -> bool:
    """Whether a holder has ended or released its file. It is killed if it is a process of this machine."""
    if holder.place != _place():
        return False
    if _started(holder.pid) != holder.started or holds(holder) is False:
        return True
    log("killing a process that lost its session", worker=holder.owner, warehouse=holder.warehouse)
    try:
        return _kill(holder)
    except PermissionError:
        return False


def _kill(holder: Holder) -> bool:
    if not hasattr(os, "pidfd_open"):  # other than Linux
        os.kill(holder.pid, signal.SIGKILL)
        give_up = time.monotonic() + _DYING_SECONDS
        while _started(holder.pid) == holder.started and time.monotonic() < give_up:
            time.sleep(0.05)
        return _started(holder.pid) != holder.started
    try:
        process = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return True
    try:
        if _started(holder.pid) != holder.started:
            return True  # it ended, and the number was used again
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(_DYING_SECONDS * 1000))
    finally:
        os.close(process)


def holds(holder: Holder) -> bool | None:
    """Whether this holder has the file locked; None: the system does not tell."""
    pid = locked_by(holder.path)
    if pid is None:
        return None
    # a process of another PID namespace or machine has no PID here
    return pid != NOBODY and (pid == holder.pid or holder.place != _place())


@functools.cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """Start time of a process; empty if there is no such process, or if it is a zombie."""
    if LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in ("Z", "X") else fields[19]  # proc_pid_stat(5): starttime is the 22nd
    completed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], check=False, capture_output=True, text=True
    )
    return completed.stdout.strip()
