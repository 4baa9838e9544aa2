"""The embedded stack: a private Redis-compatible server and workers, where no broker is configured.

An `EmbeddedStack` ends with its caller and leaves nothing behind, even after a SIGKILL of the caller
(see `guardian`). `up`, `down`, `status` and `find_running` handle the warm stack, which a user keeps
between commands.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from producer.embedded.errors import setup_error
from producer.embedded.handle import Handle, check, wait_for_worker
from producer.embedded.launch import (
    checked_workers,
    default_workers,
    launch,
    namespace_of,
    worker_command,
)
from producer.embedded.runtime_dirs import new_stack_dir
from producer.embedded.stack_info import StackInfo
from producer.embedded.warm_stack import StackStatus, down, find_running, status, up

__all__ = [
    "EmbeddedStack",
    "StackInfo",
    "StackStatus",
    "down",
    "find_running",
    "shared_stack",
    "status",
    "up",
    "worker_command",
]


class EmbeddedStack:
    """A server and worker processes that run until `stop`, or until this process ends.

    Thread-safe. A fork of this process (multiprocessing) does not use its parent's stack: `start` starts
    another one there.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        environ: Mapping[str, str] | None = None,
        runtime_dir: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            workers: number of worker processes; default ``DBT_RELAY_WORKERS``, or one for each core, at most 4.
            environ: environment of the workers, from which settings are read too; default: the environment
                of this process when the stack starts.
            runtime_dir: parent of the stack's folder; default: a private folder in the temporary folder.
            command: command line of the worker; default `worker_command`.

        Raises:
            RelayError: `workers` is not an integer from 1 to 256.
        """
        self._workers = None if workers is None else checked_workers(workers)
        self._environ = environ
        self._runtime_dir = runtime_dir
        self._command = command
        self._lock = threading.RLock()
        self._handle: Handle | None = None
        self._info: StackInfo | None = None
        _stacks.add(self)

    def start(self) -> StackInfo:
        """Start the stack if it is not running. Returns when the server answers (about 0.1 s).

        The workers take seconds more to import dbt; messages wait in the queue meanwhile. A stack that
        has failed is replaced.

        Raises:
            RelayError: the stack did not start. The text says why and what to do.
        """
        with self._lock:
            if self._handle is not None and self._handle.owner != os.getpid():
                self.forget()  # a fork without Python's fork hooks
            if self._handle is not None and self._info is not None:
                self._handle.read_reports()
                if not self._handle.ended and self._handle.failure is None:
                    return self._info
                self.stop()
            if os.name != "posix":
                raise setup_error(
                    "no_embedded_stack_here",
                    "The embedded stack needs Linux or macOS.",
                    "Set DBT_RELAY_BROKER_URL to a Redis server.",
                )
            environ = self._env()
            count = default_workers(environ) if self._workers is None else self._workers
            directory = new_stack_dir(environ, self._runtime_dir)
            self._handle, self._info = launch(
                directory, workers=count, environ=environ, command=self._command
            )
            atexit.register(self.stop)
            return self._info

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until a worker has registered. Starts the stack if it is not running.

        Args:
            timeout: seconds.

        Raises:
            RelayError: the worker cannot start, or did not register within `timeout`. The text has the end
                of its log.
        """
        started = time.monotonic()
        info, handle = self.start(), self._handle
        wait_for_worker(handle, info, self._namespace(), timeout - (time.monotonic() - started))

    def check(self) -> None:
        """Raise RelayError if the stack has failed since its start. For a client that waits for a run."""
        with self._lock:
            handle, info = self._handle, self._info
        if handle is not None and info is not None:
            check(handle, info, self._namespace())

    def stop(self) -> None:
        """End the stack and wait until all its processes have ended. Does nothing if it is not running."""
        with self._lock:
            handle, self._handle, self._info = self._handle, None, None
            if handle is not None and handle.owner == os.getpid():
                atexit.unregister(self.stop)
                handle.stop()

    def __enter__(self) -> EmbeddedStack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _env(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def _namespace(self) -> str:
        return namespace_of(self._env())

    def forget(self) -> None:
        """Drop the stack in a fork of this process: it belongs to the parent. Called after ``os.fork``."""
        self._lock = threading.RLock()  # a thread of the parent may hold the old one
        if self._handle is not None:
            self._handle.forget()
        self._handle = self._info = None


_stacks: weakref.WeakSet[EmbeddedStack] = weakref.WeakSet()
_shared: dict[str, EmbeddedStack] = {}


def shared_stack(workers: int | None = None) -> EmbeddedStack:
    """The stack that this process shares, not started yet. Only the first call's `workers` has an effect."""
    # One atomic dict operation in place of a lock, which a fork could inherit while it is held.
    return _shared.setdefault("stack", EmbeddedStack(workers=workers))


def _after_fork() -> None:
    for stack in list(_stacks):
        stack.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
