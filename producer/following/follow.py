"""Follows a run: a background thread reads its events from Redis, and the caller's thread handles them.

Redis keeps the last hundred thousand events of a run. A caller that handles events more slowly than workers publish
them would lose some of them and the result. So this process buffers the events that its caller has not handled yet.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator

from producer.client import ConsoleLines, Record, RelayClient, result_of
from producer.following.streams import say
from producer.stacks import Stack
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo, NoWorkerError, RelayError
from workers.contract.events import Event
from workers.contract.results import RUN_TERMINAL, DbtResult

IDLE_SECONDS = 2.0
NO_WORKER_SECONDS = 60.0


class _Stopped(Exception):
    """`EventReader.stop` was called."""


class EventReader:
    """Reads the events of one run, then its final record, in a background thread."""

    def __init__(self, client: RelayClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._read: queue.SimpleQueue[Event | Record | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"events of {run_id}", daemon=True)

    def follow(
        self, on_event: Callable[[Event], None] | None = None, on_idle: Callable[[], None] | None = None
    ) -> DbtResult:
        """Call `on_event` with each event of the run, in order, until the run has ended.

        Args:
            on_event: called in this thread.
            on_idle: called after every two seconds without an event.

        Returns:
            the run's result. The background thread reads it when the run ends, however slow `on_event` is.

        Raises:
            RelayError: there is no such run, or Redis cannot be reached.
            Exception: raised by `on_event` or `on_idle`.
        """
        console = ConsoleLines()
        self._thread.start()
        while True:
            try:
                item = self._read.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if on_idle is not None:
                    on_idle()
                continue
            if isinstance(item, BaseException):
                raise item
            if not isinstance(item, Event):
                request, last, facts = item
                return result_of(request, last, facts, console)
            console.add(item)
            if on_event is not None:
                on_event(item)

    def stop(self) -> None:
        """Stop reading. The thread ends within two seconds, the duration of one read."""
        self._stopped.set()

    def _work(self) -> None:
        try:
            for event in self._events():
                self._read.put(event)
            self._read.put(self._record())
        except _Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self._read.put(error)

    def _events(self) -> Iterator[Event]:
        for event in self._client.watch(self._run_id, on_idle=self._check):
            self._check()
            yield event

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _record(self) -> Record:
        """Read the run's final record. While Redis is unreachable, retry for as long as a watch does."""
        deadline = time.monotonic() + self._client.away
        while True:
            self._check()
            with contextlib.suppress(BrokerUnavailableError):
                return self._client.record(self._run_id)
            if time.monotonic() > deadline:
                return self._client.record(self._run_id)


class WorkerCheck:
    """Checks that a worker is connected while a run publishes no events."""

    def __init__(self, client: RelayClient, stack: Stack, run_id: str) -> None:
        self._client, self._stack, self._run_id = client, stack, run_id
        self._no_worker_since: float | None = None

    def check(self) -> None:
        """Check once.

        Raises:
            NoWorkerError: no worker was connected for a minute. The run is cancelled.
            RelayError: the private stack has ended.
        """
        stack = self._stack
        if stack.check is not None:
            stack.check()
        try:
            connected = stack.runtime_dir is not None or self._client.workers()
        except BrokerUnavailableError:
            connected = True  # not known; the watch raises when Redis stays unreachable
        if connected:
            self._no_worker_since = None
            return
        now = time.monotonic()
        self._no_worker_since = self._no_worker_since or now
        if now - self._no_worker_since > NO_WORKER_SECONDS:
            self._client.cancel(self._run_id, "no worker was connected")
            raise _no_worker(stack.broker_url)


def abandon(client: RelayClient, stack: Stack, run_id: str, error: BaseException) -> bool:
    """Cancel a run whose caller stops with an exception, and report that on stderr.

    Returns:
        whether the run is still active. Its workers need the caller's environment then.
    """
    if stack.check is not None:
        try:
            stack.check()
        except RelayError:
            return False  # the run ended with its private stack
    try:
        cancelled = client.cancel(run_id, f"its caller stopped with {type(error).__name__}")
        state = client.state(run_id)
    except BrokerUnavailableError as unavailable:
        say(
            sys.stderr,
            f"dbt-relay: run {run_id} could not be cancelled ({unavailable}): `dbt-relay cancel {run_id}` stops it",
        )
        return True
    if cancelled:
        say(
            sys.stderr,
            f"dbt-relay: run {run_id} was cancelled: its caller stopped with {type(error).__name__}",
        )
    return state is not None and state not in RUN_TERMINAL


def _no_worker(url: str) -> NoWorkerError:
    from workers.contract.credentials import mask_url

    message = f"no worker is connected to {mask_url(url)}; the run was cancelled"
    return NoWorkerError(
        message,
        ErrorInfo(
            code="no_worker", category=Category.WORKER_LOST.value, error_class="NoWorkerError",
            message=message, retryable=True,
            suggested_fix="Start one: `dbt-relay worker`, with the same DBT_RELAY_BROKER_URL.",
        ),
    )  # fmt: skip
