"""Starts a guardian and its stack, for both kinds: the one that lives with its caller, and the warm one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producer.embedded import guardian as guardian_program
from producer.embedded.errors import server_error, setup_error
from producer.embedded.handle import Handle, failure_error
from producer.embedded.runtime_dirs import StackDir
from producer.embedded.server import broker_url, find_server, redis_url, server_command, socket_of

if TYPE_CHECKING:
    from workers.contract.errors import RelayError

GRACE_SECONDS = 5.0
"""How long a worker that executes something may take to stop before it is killed."""

START_SECONDS = guardian_program.SERVER_START_SECONDS + 5.0

# Celery and its command line read these, and would go to another broker or load another configuration.
_MISLEADING = ("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "WORKDIR")


@dataclasses.dataclass(frozen=True)
class StackInfo:
    """A running embedded stack.

    Attributes:
        broker_url: for Celery, ``redis+socket://…``.
        redis_url: for redis-py, ``unix://…``.
        runtime_dir: logs (``worker.log``, ``server.log``, ``guardian.log``) and state; private to the user.
        pid: the guardian's: SIGTERM to it ends the stack.
        server: path of the server's binary.
        workers: number of worker processes.
        started_at: seconds since the epoch.
        version: of the dbt-relay that started it.
    """

    broker_url: str
    redis_url: str
    runtime_dir: Path
    pid: int
    server: str
    workers: int
    started_at: float
    version: str

    @property
    def socket(self) -> str:
        """Path of the server's unix socket."""
        return socket_of(self.redis_url)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StackInfo:
        """From what the guardian wrote. Raises TypeError or KeyError when it is something else."""
        return cls(**{**data, "runtime_dir": Path(data["runtime_dir"])})


def queue_of(environ: Mapping[str, str]) -> str:
    """``DBT_RELAY_QUEUE``, or the default queue: what the caller's own client publishes to."""
    from workers.contract.keys import QUEUE

    return environ.get("DBT_RELAY_QUEUE") or QUEUE


def namespace_of(environ: Mapping[str, str]) -> str:
    """``DBT_RELAY_NAMESPACE``, or the default: the first part of every key."""
    return environ.get("DBT_RELAY_NAMESPACE") or "relay"


def worker_command(processes: int, queue: str = "dbt-relay") -> list[str]:
    """Command line of the worker of an embedded stack, with `processes` pool processes."""
    return [
        sys.executable, "-m", "celery", "-A", "workers.app", "worker",
        "--concurrency", str(processes),
        "--loglevel", "warning",
        "--without-gossip", "--without-mingle",
        "-Q", queue,
    ]  # fmt: skip


def default_workers(environ: Mapping[str, str]) -> int:
    """``DBT_RELAY_WORKERS``, else one for each usable core, 4 at most. Raises RelayError for nonsense."""
    text = environ.get("DBT_RELAY_WORKERS", "").strip()
    if text:
        return checked_workers(text, "DBT_RELAY_WORKERS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def checked_workers(value: object, what: str = "workers") -> int:
    """`value` as a number of worker processes. Raises RelayError unless it is a whole number, 1 to 256."""
    with contextlib.suppress(ValueError):
        number = int(str(value))
        if 1 <= number <= 256:
            return number
    message = f"{what} is {value!r}, no number of worker processes."
    raise setup_error("bad_workers", message, "Give a whole number from 1 to 256.")


def stop_seconds(environ: Mapping[str, str]) -> float | None:
    """``DBT_RELAY_STOP_SECONDS``: how long a worker may take to stop, whether it is idle or not.

    None where it is not set. Raises RelayError for nonsense.
    """
    text = environ.get("DBT_RELAY_STOP_SECONDS", "").strip()
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds <= 86400:
            return seconds
    message = f"DBT_RELAY_STOP_SECONDS is {text!r}, no number of seconds."
    raise setup_error("bad_stop_seconds", message, "Give a number from 0 to 86400.")


def grace(environ: Mapping[str, str]) -> float:
    """Seconds that a worker gets to stop while it executes something."""
    seconds = stop_seconds(environ)
    return GRACE_SECONDS if seconds is None else seconds


def worker_environment(environ: Mapping[str, str], directory: StackDir) -> dict[str, str]:
    """The caller's environment, pointed at the stack, in which the worker finds the caller's code."""
    import workers.contract

    result = {
        name: value
        for name, value in environ.items()
        if not name.startswith("CELERY_") and name not in _MISLEADING
    }
    # The worker runs in its runtime folder, where no file of the user can hide a module: so what
    # is relative in PYTHONPATH is made absolute, and our own place comes first unless it is installed.
    entries = environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(entry).absolute()) for entry in entries if entry]
    home = Path(workers.contract.__path__[0]).absolute().parent.parent
    if home.name not in ("site-packages", "dist-packages"):
        paths.insert(0, str(home))
    if paths:
        result["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    result["DBT_RELAY_BROKER_URL"] = broker_url(directory.socket)
    result["DBT_RELAY_EMBEDDED"] = "1"
    result["DBT_RELAY_RUNTIME_DIR"] = str(directory.path)
    return result


def launch(
    directory: StackDir,
    *,
    workers: int,
    environ: Mapping[str, str],
    command: Sequence[str] | None = None,
    failure_file: Path | None = None,
    detached: bool = False,
) -> tuple[Handle, StackInfo]:
    """Start a stack in `directory`; returns when its server answers (the worker takes seconds more).

    `command` replaces `worker_command`. A detached stack outlives the caller, and leaves the reason of
    a failure in `failure_file`. Raises RelayError; nothing is left running or on disk then.
    """
    handle: Handle | None = None
    try:
        config = _config(directory, workers, environ, command, failure_file, detached)
        handle = Handle(_start(directory, environ), config["grace"])
        handle.send(json.dumps(config).encode())
        if detached:
            handle.process.wait()  # the first of its two forks; nothing of it stays a child of ours
        deadline = time.monotonic() + START_SECONDS
        while handle.ready is None and handle.failure is None and not handle.ended:
            if time.monotonic() > deadline:
                break
            handle.read_reports(deadline - time.monotonic())
        if handle.ready is None:
            raise _start_failure(handle, directory)  # noqa: TRY301 - cleaned up below like all else
        if detached:
            handle.send(guardian_program.KEEP)
    except BaseException:  # KeyboardInterrupt too: nothing may stay behind
        if handle is not None:
            handle.stop()
        directory.discard()
        raise
    directory.close()
    return handle, StackInfo.from_dict(handle.ready)


def _config(
    directory: StackDir,
    workers: int,
    environ: Mapping[str, str],
    command: Sequence[str] | None,
    failure_file: Path | None,
    detached: bool,
) -> guardian_program.Config:
    from workers.contract.keys import Keys

    server = find_server(environ)
    keys = Keys(namespace_of(environ))
    return {
        "caller": None if detached else os.getpid(),
        "folders": [str(folder) for folder in directory.folders],
        "locks": list(directory.locks),
        "socket": str(directory.socket),
        "server": server_command(server, directory.socket, directory.path),
        "worker": list(command or worker_command(workers, queue_of(environ))),
        "grace": grace(environ),
        "idle_if_empty": [keys.leases(), keys.active()] if stop_seconds(environ) is None else None,
        "info": {
            "broker_url": broker_url(directory.socket),
            "redis_url": redis_url(directory.socket),
            "runtime_dir": str(directory.path),
            "server": server,
            "workers": workers,
            "started_at": time.time(),
            "version": _version(),
        },
        "failure": None if failure_file is None else str(failure_file),
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dbt-relay")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _start(directory: StackDir, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise setup_error(
            "no_python",
            "The embedded stack cannot be started: this process does not know its Python executable.",
            "Start workers by hand (dbt-relay worker) and set DBT_RELAY_BROKER_URL.",
        )
    with (directory.path / "guardian.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian_program.__file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=directory.path,
            env=worker_environment(environ, directory),
            start_new_session=True,  # Ctrl-C in the terminal is for the caller to decide about
            pass_fds=directory.locks,
        )


def _start_failure(handle: Handle, directory: StackDir) -> RelayError:
    if handle.failure is not None:
        return failure_error(handle.failure)
    why = guardian_program.tail(str(directory.path / "guardian.log"))
    return server_error(
        "embedded_start_failed",
        f"The embedded stack did not start with {sys.executable}.",
        "Set DBT_RELAY_BROKER_URL to a running server to do without it.",
        why,
    )
