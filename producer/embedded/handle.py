"""Handle of a running stack: the pipes to its guardian, its reports and its failures as errors."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any, cast

from producer.embedded.errors import server_error, setup_error, worker_error
from producer.embedded.guardian import GROUP_GONE_SECONDS, SERVER_STOP_SECONDS, tail
from producer.embedded.server import ask
from producer.embedded.stack_info import StackInfo

if TYPE_CHECKING:
    from workers.contract.errors import RelayError


def shutdown_seconds(grace: float) -> float:
    """Seconds within which a guardian must end its stack when the worker gets `grace` seconds."""
    return grace + SERVER_STOP_SECONDS + 2 * GROUP_GONE_SECONDS


class Handle:
    """The caller's end of the pipes to a guardian: one keeps the stack alive, one carries reports."""

    def __init__(self, process: subprocess.Popen[bytes], grace: float) -> None:
        self.owner = os.getpid()
        self.process = process
        self.shutdown_seconds = shutdown_seconds(grace)
        self.lifeline = cast(FileIO, process.stdin)  # both are unbuffered pipes
        self.reports = cast(FileIO, process.stdout)
        self.ended = False  # guardian, sweeper and stack have ended
        self.ready: dict[str, Any] | None = None
        self.failure: dict[str, Any] | None = None
        self.worker_exits: list[dict[str, Any]] = []
        self._unread = b""
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self.reports, select.POLLIN)

    def read_reports(self, seconds: float = 0.0) -> None:
        """Read the guardian's reports, waiting up to `seconds` for a new one."""
        with self._lock:
            self.ended = self.ended or self.reports.closed
            while not self.ended and self._poll.poll(max(0.0, seconds) * 1000):
                piece = os.read(self.reports.fileno(), 65536)
                self.ended = not piece
                *lines, self._unread = (self._unread + piece).split(b"\n")
                for line in lines:
                    self._record_report(json.loads(line))
                seconds = 0.0

    def _record_report(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.ready = event["info"]
        elif event["event"] == "worker_exit":
            self.worker_exits.append(event)
        else:
            self.failure = event

    def wait_end(self, seconds: float) -> bool:
        """Wait for the stack's end. Returns whether it ended within `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self.read_reports(deadline - time.monotonic())
        return self.ended

    def send(self, line: bytes) -> None:
        """Write a line to the guardian. A guardian that has ended is noticed when reports are read."""
        line += b"\n"
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[self.lifeline.write(line) or 0 :]

    def close(self) -> None:
        """Close the pipes. The guardian ends its stack then, unless it is detached."""
        with self._lock:
            for pipe in (self.lifeline, self.reports):
                with contextlib.suppress(OSError):
                    pipe.close()

    def forget(self) -> None:
        """Drop the guardian in a fork of the caller: it belongs to the parent process."""
        self._lock = threading.Lock()  # a thread of the parent may hold the old one
        self.process.returncode = 0  # not a child of this process
        self.close()

    def stop(self) -> None:
        """End the stack and wait until all its processes have ended. Kills a guardian that takes too long."""
        with contextlib.suppress(OSError):
            self.lifeline.close()
        if not self.wait_end(self.shutdown_seconds):
            self.process.kill()  # its sweeper ends the rest
            self.wait_end(2 * GROUP_GONE_SECONDS)
        self.process.wait()
        self.close()


def failure_error(failure: Mapping[str, Any]) -> RelayError:
    """Convert a ``failed`` report to an error."""
    if failure["what"] == "server":
        return server_error(
            "embedded_server_failed",
            f"The embedded stack's server {failure['how']}.",
            "Run the command again: a new server is started. If it ends again, its log above says why (often "
            "memory); set DBT_RELAY_BROKER_URL to use a server of your own.",
            failure["log"],
        )
    if failure["what"] == "folder":
        return setup_error(
            "runtime_dir_gone",
            f"The embedded stack's runtime folder {failure['how']}.",
            "Run the command again: a new stack is started. If a program that cleans temporary folders removed it, "
            "set DBT_RELAY_RUNTIME_DIR to a folder elsewhere.",
        )
    return _worker_error(failure)


def _worker_error(event: Mapping[str, Any]) -> RelayError:
    log = event["log"]
    if "No module named" in log:
        fix = f"Install what is missing for {sys.executable}: pip install 'dbt-relay[worker]'."
    else:
        fix = "The worker's log above says why; correct that and run the command again."
    return worker_error("embedded_worker_failed", f"The embedded stack's worker {event['how']}.", fix, log)


def check(handle: Handle, info: StackInfo, namespace: str) -> None:
    """Check that the stack is running.

    Raises:
        RelayError: the stack has failed, or its worker ended twice and no worker ever registered.
    """
    handle.read_reports()
    if handle.failure is not None:
        raise failure_error(handle.failure)
    if handle.ended:
        raise server_error(
            "embedded_stack_gone",
            f"The embedded stack (guardian {info.pid}) was ended from outside.",
            "Run the command again: a new stack is started.",
        )
    if len(handle.worker_exits) > 1 and not registered_workers(info, namespace):
        event = handle.worker_exits[-1]
        raise _worker_error({**event, "how": f"ended before it could take work ({event['how']})"})


def registered_workers(info: StackInfo, namespace: str) -> list[str]:
    """Names of the registered workers (hash ``<namespace>:workers``); empty if the server is unreachable."""
    from workers.contract.keys import Keys

    with contextlib.suppress(OSError):
        names = ask(info.socket, "HKEYS", Keys(namespace).workers())
        if isinstance(names, list):
            return sorted(name.decode(errors="replace") for name in names if isinstance(name, bytes))
    return []


def wait_for_worker(handle: Handle | None, info: StackInfo, namespace: str, timeout: float) -> None:
    """Wait until a worker has registered.

    Args:
        handle: of the stack; None where another process started it: its failures are not seen then.
        timeout: seconds.

    Raises:
        RelayError: see `check`; or no worker registered within `timeout`.
    """
    deadline = time.monotonic() + timeout
    while not registered_workers(info, namespace):
        if handle is not None:
            check(handle, info, namespace)
        if time.monotonic() > deadline:
            raise worker_error(
                "embedded_worker_silent",
                f"No worker of the embedded stack was ready after {timeout:g} s.",
                f"Look at {info.runtime_dir / 'worker.log'}; give it more time on a slow machine.",
                tail(str(info.runtime_dir / "worker.log")),
            )
        time.sleep(0.05)
