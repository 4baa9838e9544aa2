"""Helpers for processes that tests start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path


def short_directory(prefix: str) -> Path:
    """Create a directory whose path is short enough for unix sockets (108 bytes)."""
    parent = "/tmp" if os.access("/tmp", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()


def without_coverage(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ` without coverage settings: in a traced process dbt takes twice as long."""
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def end_process(process: subprocess.Popen[bytes], signum: int, timeout: float) -> int:
    """Send `signum`, wait `timeout` seconds, then kill. Returns the exit code."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(10)


def kill_group(process: subprocess.Popen[bytes]) -> int:
    """Send SIGKILL to the process group of a process started with ``start_new_session``."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(10)


def tail(path: Path, lines: int = 80) -> str:
    """The last lines of a log file, or the error of reading it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-lines:])
