"""The warm stack: one for each user, which runs from ``dbt-relay up`` to ``dbt-relay down``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from producer.embedded import runtime_dirs
from producer.embedded.errors import setup_error
from producer.embedded.guardian import answers_ping
from producer.embedded.handle import (
    Handle,
    failure_error,
    registered_workers,
    shutdown_seconds,
    wait_for_worker,
)
from producer.embedded.launch import (
    checked_workers,
    default_workers,
    grace,
    launch,
    namespace_of,
    queue_of,
)
from producer.embedded.server import ask
from producer.embedded.stack_info import StackInfo


@dataclasses.dataclass(frozen=True)
class StackStatus:
    """State of the warm stack.

    Attributes:
        info: the warm stack, or None when none is running.
        ready: names of the registered workers.
        queued: number of messages in the queue.
        active: number of runs that are not finished.
        failure: why the last warm stack failed; empty if it did not.
    """

    info: StackInfo | None
    ready: tuple[str, ...] = ()
    queued: int = 0
    active: int = 0
    failure: str = ""


def find_running(environ: Mapping[str, str] | None = None) -> StackInfo | None:
    """Return the warm stack if its server answers; takes about a millisecond.

    Removes what a killed stack left behind.
    """
    base = runtime_dirs.existing_base(os.environ if environ is None else environ)
    if base is None:
        return None
    folder = runtime_dirs.warm_dir(base)
    info = _read(folder)
    if info is None:
        return None
    if answers_ping(info.socket):
        return info
    fd = runtime_dirs.lock(folder)
    if fd is not None:  # its guardian has ended too
        runtime_dirs.empty(folder)
        os.close(fd)
    return None


def _read(folder: Path) -> StackInfo | None:
    try:
        return StackInfo.from_dict(json.loads((folder / "stack.json").read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def up(
    workers: int | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    wait_ready: float | None = None,
    timeout: float = 30.0,
) -> StackInfo:
    """Start the warm stack if it is not running. It outlives the caller; concurrent calls start one stack.

    Args:
        workers: number of worker processes; default ``DBT_RELAY_WORKERS``, or one for each core, at most 4.
            Has no effect on a running stack.
        environ: environment of the workers; default: this process'.
        command: command line of the worker; default `worker_command`.
        wait_ready: seconds to wait for a registered worker; None: return when the server answers.
        timeout: seconds to wait while another process starts or stops the stack.

    Raises:
        RelayError: the stack did not start, or a wait took too long.
    """
    environ = os.environ if environ is None else environ
    count = default_workers(environ) if workers is None else checked_workers(workers)
    deadline = time.monotonic() + timeout
    handle: Handle | None = None
    while (info := find_running(environ)) is None:
        directory = runtime_dirs.claim_warm_dir(environ)
        if directory is not None:
            failure_file = runtime_dirs.failure_file(directory.path.parent)
            failure_file.unlink(missing_ok=True)
            handle, info = launch(
                directory,
                workers=count,
                environ=environ,
                command=command,
                failure_file=failure_file,
                detached=True,
            )
            break
        if time.monotonic() > deadline:
            raise _busy_error(runtime_dirs.warm_dir(runtime_dirs.base_dir(environ)), timeout)
        time.sleep(0.02)
    try:
        if wait_ready is not None:
            wait_for_worker(handle, info, namespace_of(environ), wait_ready)
    finally:
        if handle is not None:
            handle.close()
    return info


def down(timeout: float | None = None, environ: Mapping[str, str] | None = None) -> bool:
    """Stop the warm stack and wait until it has ended.

    Args:
        timeout: seconds until the stack is killed; default: a little more than workers get to stop
            (``DBT_RELAY_STOP_SECONDS``, or 5).

    Returns:
        False when no stack was running.

    Raises:
        RelayError: the stack is still there after the kill.
    """
    environ = os.environ if environ is None else environ
    timeout = shutdown_seconds(grace(environ)) if timeout is None else timeout
    base = runtime_dirs.existing_base(environ)
    if base is None:
        return False
    folder = runtime_dirs.warm_dir(base)
    runtime_dirs.failure_file(base).unlink(missing_ok=True)
    fd = runtime_dirs.open_folder(folder)
    if fd is None:
        return False
    try:
        ran = _stop_owner(fd, folder, timeout)
        if runtime_dirs.is_at(fd, folder):  # its guardian was killed
            runtime_dirs.empty(folder)
            folder.rmdir()
        return ran
    finally:
        os.close(fd)


def _stop_owner(fd: int, folder: Path, timeout: float) -> bool:
    started = time.monotonic()
    pid = sent = 0
    while not runtime_dirs.try_lock(fd):
        info = _read(folder)  # None while the stack starts or ends
        pid = pid if info is None else info.pid
        waited = time.monotonic() - started
        number = signal.SIGKILL if waited > timeout else signal.SIGTERM
        if pid and sent != number:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            sent = number
        if waited > timeout + shutdown_seconds(0):
            raise _busy_error(folder, waited)
        time.sleep(0.01)
    return sent != 0


def _busy_error(folder: Path, waited: float) -> Exception:
    return setup_error(
        "warm_stack_busy",
        f"Another process has been starting or stopping the warm stack in {folder} for {waited:.0f} s.",
        "Wait for it, or end the guardian process of this folder (embedded/guardian.py in `ps`).",
    )


def status(environ: Mapping[str, str] | None = None) -> StackStatus:
    """State of the warm stack, or why the last one failed."""
    environ = os.environ if environ is None else environ
    info = find_running(environ)
    if info is None:
        return StackStatus(None, failure=_last_failure(environ))
    from workers.contract.keys import Keys

    namespace = namespace_of(environ)
    return StackStatus(
        info,
        ready=tuple(registered_workers(info, namespace)),
        queued=_count(info, "LLEN", queue_of(environ)),
        active=_count(info, "ZCARD", Keys(namespace).active()),
    )


def _count(info: StackInfo, *words: str) -> int:
    with contextlib.suppress(OSError):  # the stack may be ending
        reply = ask(info.socket, *words)
        if isinstance(reply, int):
            return reply
    return 0


def _last_failure(environ: Mapping[str, str]) -> str:
    base = runtime_dirs.existing_base(environ)
    if base is None:
        return ""
    try:
        return str(failure_error(json.loads(runtime_dirs.failure_file(base).read_bytes())))
    except (OSError, ValueError, KeyError):
        return ""
