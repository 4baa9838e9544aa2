"""Explains a DuckDB lock error when the caller itself has the file open.

DuckDB's error names the process that has the file open. If that is the process that called dbt-relay or one of its
parents, waiting is useless: the caller must close its connection.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import msgspec

from workers.contract.errors import ErrorInfo
from workers.contract.results import DbtResult

_PID = re.compile(r"\(PID (\d+)\)")
_PATH = re.compile(r"lock on file \"([^\"]+)\"")


def explain_own_locks(result: DbtResult) -> DbtResult:
    """Rewrite the lock errors of a result that the caller or one of its parents caused. Returns the result."""
    here = socket.gethostname()
    workers = {node.worker for node in result.nodes} | {attempt.worker for attempt in result.attempts}
    if not any(worker.rpartition(":")[0] == here for worker in workers):
        return result  # the pids are another machine's
    if result.error is not None:
        before, result.error = result.error, _explain(result.error)
        if result.stderr == before.message:
            result.stderr = result.error.message
    result.nodes = tuple(
        node if node.error is None else msgspec.structs.replace(node, error=_explain(node.error))
        for node in result.nodes
    )
    return result


def _explain(error: ErrorInfo) -> ErrorInfo:
    pid, path = _PID.search(error.detail), _PATH.search(error.detail)
    if error.code != "duckdb_file_locked" or pid is None:
        return error
    number, file = int(pid[1]), path[1] if path else "the file"
    if number == os.getpid():
        return msgspec.structs.replace(
            error, message=f"this program (PID {number}) has {file} open itself",
            suggested_fix="Close your own connection (`connection.close()`) before you call dbt, and open it again "
            "when dbt has ended: DuckDB lets one process at a time open a file.",
        )  # fmt: skip
    if number in ancestors():
        return msgspec.structs.replace(
            error, message=f"the program that started this command (PID {number}) has {file} open",
            suggested_fix="Have it close its connection (`connection.close()`) before it starts the command, and open "
            "it again when the command has ended: DuckDB lets one process at a time open a file.",
        )  # fmt: skip
    return error


def ancestors() -> list[int]:
    """Process ids of this process' parent, its parent, and so on."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 1 and pid not in found:
        found.append(pid)
        pid = _parent_of(pid)
    return found


def _parent_of(pid: int) -> int:
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        )  # proc_pid_stat(5): ppid
    except (OSError, ValueError, IndexError):
        return _parent_from_ps(pid)


def _parent_from_ps(pid: int) -> int:
    try:
        output = subprocess.run(
            ["ps", "-o", "ppid=", "-p", str(pid)], check=False, capture_output=True, text=True
        ).stdout
        return int(output)
    except (OSError, ValueError):
        return 0
