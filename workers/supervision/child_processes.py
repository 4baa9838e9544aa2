"""The state of pool processes, as the worker's main process can read it from the operating system."""

from __future__ import annotations

import os
from pathlib import Path


def is_ours(pid: int) -> bool:
    """Whether a process is the current process, or a child of it that has not ended.

    Args:
        pid: process id.
    """
    if pid == os.getpid():
        return True
    try:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        os.kill(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        return False
    return True


def can_execute(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is ours (`is_ours`) and not stopped (SIGSTOP, a debugger).

    Returns False where the system does not say whether it is stopped.

    Args:
        pid: process id.
        proc: folder of Linux' process information (proc_pid_stat(5)).
    """
    if pid == os.getpid():
        return True
    if not is_ours(pid):
        return False
    try:
        state = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return hasattr(os, "waitid") and not _is_stopped(pid)
    return state not in {"T", "t", "Z", "X"}


def _is_stopped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
