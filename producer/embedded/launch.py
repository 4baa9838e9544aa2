"""Starts a guardian with its stack: one that ends with its caller, or the warm stack."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from producer.embedded import guardian as guardian_program
from producer.embedded.errors import server_error, setup_error
from producer.embedded.handle import Handle, failure_error
from producer.embedded.runtime_dirs import StackDir
from producer.embedded.server import broker_url, find_server, redis_url, server_command
from producer.embedded.stack_info import StackInfo

if TYPE_CHECKING:
    from workers.contract.errors import RelayError

GRACE_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL for a worker that is executing steps."""

START_SECONDS = guardian_program.SERVER_START_SECONDS + 5.0

# Celery reads these: the worker would use another broker or load another configuration.
_MISLEADING = ("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "WORKDIR")


def queue_of(environ: Mapping[str, str]) -> str:
    """The queue to which the caller's client publishes: ``DBT_RELAY_QUEUE``, or the default."""
    from workers.contract.keys import QUEUE

    return environ.get("DBT_RELAY_QUEUE") or QUEUE


def namespace_of(environ: Mapping[str, str]) -> str:
    """The first part of every Redis key: ``DBT_RELAY_NAMESPACE``, or the default."""
    return environ.get("DBT_RELAY_NAMESPACE") or "relay"


def worker_command(processes: int, queue: str = "dbt-relay") -> list[str]:
    """Command line of an embedded stack's worker with `processes` pool processes."""
    return [
        sys.executable, "-m", "celery", "-A", "workers.app", "worker",
        "--concurrency", str(processes),
        "--loglevel", "warning",
        "--without-gossip", "--without-mingle",
        "-Q", queue,
    ]  # fmt: skip


def default_workers(environ: Mapping[str, str]) -> int:
    """Number of worker processes: ``DBT_RELAY_WORKERS``, or one for each usable core, at most 4.

    Raises:
        RelayError: see `checked_workers`.
    """
    text = environ.get("DBT_RELAY_WORKERS", "").strip()
    if text:
        return checked_workers(text, "DBT_RELAY_WORKERS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def checked_workers(value: object, what: str = "workers") -> int:
    """Convert `value` to a number of worker processes. Raises RelayError unless it is an integer from 1 to 256."""
    with contextlib.suppress(ValueError):
        number = int(str(value))
        if 1 <= number <= 256:
            return number
    message = f"{what} is {value!r}, which is not a number of worker processes."
    raise setup_error("bad_workers", message, "Give a whole number from 1 to 256.")


def stop_seconds(environ: Mapping[str, str]) -> float | None:
    """Seconds that a worker may take to stop, idle or not: ``DBT_RELAY_STOP_SECONDS``; None if it is not set.

    Raises:
        RelayError: it is not a number from 0 to 86400.
    """
    text = environ.get("DBT_RELAY_STOP_SECONDS", "").strip()
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds <= 86400:
            return seconds
    message = f"DBT_RELAY_STOP_SECONDS is {text!r}, which is not a number of seconds."
    raise setup_error("bad_stop_seconds", message, "Give a number from 0 to 86400.")


def grace(environ: Mapping[str, str]) -> float:
    """Seconds that a worker gets to stop while it executes steps."""
    seconds = stop_seconds(environ)
    return GRACE_SECONDS if seconds is None else seconds


def worker_environment(environ: Mapping[str, str], directory: StackDir) -> dict[str, str]:
    """The worker's environment: the caller's, with the stack's broker, in which the caller's code can be imported."""
    import workers.contract

    result = {
        name: value
        for name, value in environ.items()
        if not name.startswith("CELERY_") and name not in _MISLEADING
    }
    # The worker's working directory is the runtime folder, so that no file of the user hides a module.
    # Relative entries of PYTHONPATH are made absolute. A source tree of dbt-relay comes first.
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
    """Start a stack in `directory`. Returns when its server answers; the worker takes seconds more.

    Args:
        workers: number of pool processes.
        environ: the caller's environment.
        command: command line of the worker, in place of `worker_command`.
        failure_file: where a detached stack writes why it failed.
        detached: whether the stack outlives the caller.

    Raises:
        RelayError: the stack did not start. Nothing is left running or on disk.
    """
    handle: Handle | None = None
    try:
        config = _config(directory, workers, environ, command, failure_file, detached)
        handle = Handle(_start(directory, environ), config["grace"])
        handle.send(json.dumps(config).encode())
        if detached:
            handle.process.wait()  # see `guardian.detach`: the guardian is no child of this process
        deadline = time.monotonic() + START_SECONDS
        while handle.ready is None and handle.failure is None and not handle.ended:
            if time.monotonic() > deadline:
                break
            handle.read_reports(deadline - time.monotonic())
        if handle.ready is None:
            raise _start_failure(handle, directory)  # noqa: TRY301 - cleaned up below
        if detached:
            handle.send(guardian_program.KEEP)
    except BaseException:  # KeyboardInterrupt too: leave nothing behind
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
    except PackageNotFoundError:  # a source tree
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
            start_new_session=True,  # Ctrl-C in the terminal reaches only the caller
            pass_fds=directory.locks,
        )


def _start_failure(handle: Handle, directory: StackDir) -> RelayError:
    if handle.failure is not None:
        return failure_error(handle.failure)
    why = guardian_program.tail(str(directory.path / "guardian.log"))
    return server_error(
        "embedded_start_failed",
        f"The embedded stack did not start with {sys.executable}.",
        "Set DBT_RELAY_BROKER_URL to a running server: then no embedded stack is needed.",
        why,
    )
