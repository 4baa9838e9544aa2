"""Fences at the warehouse: an execution that lost its step to another worker cannot go on writing.

A process that is paused for longer than its lease does not notice, and may be in the middle of a transaction.
So an execution opens each connection in three steps:

1. Before its first connection, a second or later execution of a step ends the server connections that earlier
   executions of the step left open.
2. The connection carries a mark: run, step and fence of its execution.
3. Once the connection is open, the execution checks its lease, and closes the connection if the lease is lost.

An execution that passed 3 was visible on the server while it held the lease. The next execution starts after
that lease, so it finds the connection in 1. `_FENCES` lists the adapters that support marks. On other warehouses
only 3 applies. For a DuckDB file, the lock of the file does the rest (`workers.sessions.stale_lock_holders`).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import msgspec
from dbt.adapters.contracts.connection import Connection, ConnectionState
from dbt.adapters.exceptions import FailedToConnectError

from workers.contract.errors import DbtUsageError
from workers.engine.output.masking import mask_connection_errors
from workers.engine.warehouse import duckdb_connections

CANCELLING = "cancel"
"""Name of the connection that cancels queries of this process. It is not fenced."""

TERMINATE_TIMEOUT = 30.0
"""Seconds that the server has to end connections of earlier executions."""

_APPLICATION_NAME_BYTES = 63  # NAMEDATALEN - 1 of PostgreSQL


class StepExecution(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a step, as the warehouse code needs it.

    Attributes:
        fence: fence of the claim; each later execution of the step has a higher one.
        has_predecessors: the step was executed before, so connections may be left open.
        supersedes_run: this is the run's last step, and an execution of some step lost its lease.
        check_lease: raises where this process cannot show that it still holds the step's lease.
    """

    run_id: str
    step: str
    fence: int
    has_predecessors: bool = False
    supersedes_run: bool = False
    check_lease: Callable[[], None] = lambda: None

    @property
    def run_mark(self) -> str:
        """Prefix of the marks of all executions of the run."""
        return f"relay/{_short(self.run_id)}/"

    @property
    def step_mark(self) -> str:
        """Prefix of the marks of all executions of the step."""
        return f"{self.run_mark}{_short(self.step)}/"

    @property
    def mark(self) -> str:
        """Mark of this execution alone."""
        return f"{self.step_mark}{self.fence}"

    def supersedes(self, mark: str) -> bool:
        """Whether a connection with this `mark` must be ended before this execution goes on.

        True for earlier executions of the step. At the end of a run, also for all of its other steps. An outdated
        execution never ends a later one.
        """
        if mark.startswith(self.step_mark):
            return int(mark[len(self.step_mark) :]) < self.fence
        return self.supersedes_run and mark.startswith(self.run_mark)


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


class WarehouseFence(Protocol):
    """How one type of warehouse marks connections and ends them."""

    def marked(self, credentials: Any, mark: str) -> Any:
        """Return a copy of the credentials whose connections carry the mark."""

    def end_others(self, manager: Any, credentials: Any, execution: StepExecution) -> None:
        """End the connections of every execution that this one supersedes (`StepExecution.supersedes`).

        Raises:
            FailedToConnectError: some are still open after `TERMINATE_TIMEOUT` seconds.
        """


class PostgresFence:
    """Appends the mark to ``application_name`` and ends backends with ``pg_terminate_backend``.

    A user may end its own backends (postgresql.org/docs, "Server Signaling Functions"). The connection that does
    this does not set the profile's ``role``: the role may lack that permission.
    """

    def marked(self, credentials: Any, mark: str) -> Any:
        """See `WarehouseFence`."""
        marked = copy.copy(credentials)
        name = (credentials.application_name or "").encode()[: _APPLICATION_NAME_BYTES - len(mark) - 1]
        marked.application_name = f"{name.decode(errors='ignore')} {mark}".strip()
        return marked

    def end_others(self, manager: Any, credentials: Any, execution: StepExecution) -> None:
        """See `WarehouseFence`."""
        plain = copy.copy(credentials)
        plain.role, plain.autocommit = None, True
        connection = Connection(
            type=manager.TYPE, name=CANCELLING, credentials=plain, state=ConnectionState.INIT
        )  # fmt: skip
        manager.open(connection)  # the wrapped `open`, which masks credentials in errors
        marked = "from pg_stat_activity where usename = current_user and strpos(application_name, %s) > 0"
        give_up = time.monotonic() + TERMINATE_TIMEOUT
        with closing(connection.handle) as handle, handle.cursor() as cursor:
            while True:
                cursor.execute(f"select pid, application_name {marked}", (execution.run_mark,))
                left = [
                    pid for pid, name in cursor.fetchall() if execution.supersedes(name.rpartition(" ")[2])
                ]
                if not left:
                    return
                cursor.execute(
                    f"select pg_terminate_backend(pid) {marked} and pid = any(%s)", (execution.run_mark, left)
                )
                if time.monotonic() > give_up:
                    raise FailedToConnectError(
                        "An earlier execution still holds connections to the server after "
                        f"{TERMINATE_TIMEOUT:g} s of asking for their end (pg_stat_activity.pid {', '.join(map(str, left))})"
                    )
                time.sleep(0.02)


_FENCES: dict[str, WarehouseFence] = {"postgres": PostgresFence()}
"""Fences by adapter type. Other adapters cannot mark a connection so that a later execution finds it."""


class _Process:
    """The execution of this process: one step at a time, with connections in one or several threads."""

    def __init__(self) -> None:
        self.execution: StepExecution | None = None
        self.cleared = True
        self.lock = threading.Lock()


_process = _Process()


@contextlib.contextmanager
def fenced(execution: StepExecution) -> Iterator[None]:
    """Mark this process's connections with `execution`, and open them only while it holds the step's lease."""
    _process.execution = execution
    _process.cleared = not (execution.has_predecessors or execution.supersedes_run)
    try:
        yield
    finally:
        _process.execution = None


def check_lease() -> None:
    """Check that this process still holds the lease of the step that it executes.

    Raises:
        FailedToConnectError: the lease is lost, or cannot be confirmed.
    """
    if _process.execution is not None:
        try:
            _process.execution.check_lease()
        except Exception as error:
            raise FailedToConnectError(str(error)) from error


def end_earlier_connections(adapter: Any) -> None:
    """End the server connections of earlier executions, unless this execution did so already.

    Raises:
        FailedToConnectError: the server cannot be reached, or does not end them.
    """
    execution, fence = _process.execution, _FENCES.get(adapter.type())
    if execution is None or fence is None:
        return
    with _process.lock:
        if not _process.cleared:
            manager = adapter.connections
            fence.end_others(manager, manager.profile.credentials, execution)
            _process.cleared = True


class FencedAdapters(dict[str, Any]):
    """The adapter registry of dbt's factory (`FACTORY.adapters`): every registered adapter opens fenced connections."""

    def __setitem__(self, name: str, adapter: Any) -> None:
        duckdb_connections.install()  # an adapter has imported its driver
        _fence(adapter)
        mask_connection_errors(adapter)
        super().__setitem__(name, adapter)


def _fence(adapter: Any) -> None:
    opened = adapter.connections.open

    def fenced_open(connection: Any) -> Any:
        execution = _process.execution
        if execution is None or connection.name == CANCELLING or connection.state == ConnectionState.OPEN:
            return opened(connection)
        fence, profile = _FENCES.get(adapter.type()), connection.credentials
        end_earlier_connections(adapter)
        if fence is not None:
            connection.credentials = fence.marked(profile, execution.mark)
        try:
            opened(connection)
        finally:
            connection.credentials = profile
        try:
            check_lease()
        except FailedToConnectError:
            connection.handle.close()
            connection.handle, connection.state = None, ConnectionState.FAIL
            raise
        return connection

    fenced_open.fenced = True  # type: ignore[attr-defined]
    # dbt looks `open` up on the manager at each call (dbt.adapters.base.connections.set_connection_name)
    adapter.connections.open = fenced_open


def require_fence(adapter: Any) -> None:
    """Check that `FencedAdapters` registered an adapter.

    Raises:
        DbtUsageError: this release of dbt keeps its adapters elsewhere.
    """
    if not getattr(adapter.connections.open, "fenced", False):
        raise DbtUsageError(
            "dbt-relay cannot fence the connections of this release of dbt: a worker that lost a node could go on "
            "writing. Install a supported release (docs/dbt-releases.md)"
        )
