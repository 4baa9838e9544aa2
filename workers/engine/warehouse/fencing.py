"""Fences at the warehouse: an execution whose step was given to somebody else cannot go on writing.

A process that is stopped or paged out for longer than its lease knows nothing of it, and may be in the
middle of a transaction. So each connection is opened like this:

1. The first connection of an execution that is not its step's first ends what is left of those before it on
   the server: one that was lost, and one that gave the step back and left a connection behind.
2. The connection carries a mark: run, step and fence of its execution.
3. Once it is open, the execution makes sure that its lease still holds, or closes it again.

Whoever passed 3 was visible on the server while its lease held, so a successor, who comes after the lease,
finds it in 1. What a server allows is in `_FENCES`; on other warehouses only 3 is done, and for a DuckDB
file the lock of the file does the rest (`workers.sessions.stale_lock_holders`).
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
"""Name of the connection over which queries of this process are cancelled. It is not fenced."""

TERMINATE_TIMEOUT = 30.0
"""Seconds that the server has to end what an earlier execution left."""

_APPLICATION_NAME_BYTES = 63  # NAMEDATALEN - 1 of PostgreSQL


class StepExecution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution of a step, as its warehouse needs to know it.

    Attributes:
        fence: of the claim; each later execution of the step has a higher one.
        has_predecessors: the step was executed before, and something of that may be left.
        supersedes_run: it is the run's last step, and some execution of some step lost its lease.
        check_lease: raises where this process cannot show that the step is still its own.
    """

    run_id: str
    step: str
    fence: int
    has_predecessors: bool = False
    supersedes_run: bool = False
    check_lease: Callable[[], None] = lambda: None

    @property
    def run_mark(self) -> str:
        """What the marks of all executions of the run begin with."""
        return f"relay/{_short(self.run_id)}/"

    @property
    def step_mark(self) -> str:
        """What the marks of all executions of the step begin with."""
        return f"{self.run_mark}{_short(self.step)}/"

    @property
    def mark(self) -> str:
        """Of this execution alone."""
        return f"{self.step_mark}{self.fence}"

    def supersedes(self, mark: str) -> bool:
        """Whether what carries `mark` must not go on beside this execution.

        That are earlier executions of the step; for the end of a run also all of its other steps. Whoever
        is itself out of date ends no successor.
        """
        if mark.startswith(self.step_mark):
            return int(mark[len(self.step_mark) :]) < self.fence
        return self.supersedes_run and mark.startswith(self.run_mark)


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


class WarehouseFence(Protocol):
    """What a kind of warehouse can do."""

    def marked(self, credentials: Any, mark: str) -> Any:
        """A copy of credentials whose connections carry a mark."""

    def end_others(self, manager: Any, credentials: Any, execution: StepExecution) -> None:
        """End every connection of executions that lost to this one (`StepExecution.supersedes`).

        Raises:
            FailedToConnectError: they are there still after `TERMINATE_TIMEOUT` seconds.
        """


class PostgresFence:
    """The mark is the end of ``application_name``; a backend is ended with ``pg_terminate_backend``.

    A user may end its own backends (postgresql.org/docs, "Server Signaling Functions"). The profile's
    ``role`` is left out for that: a role need not be allowed what the user who logged in is.
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
        manager.open(connection)  # the wrapped one, which masks credentials in its errors
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
"""By type of adapter. Others have no mark of a connection that its successor could look for."""


class _Process:
    """What this process executes: one step at a time, its connections in one or several threads."""

    def __init__(self) -> None:
        self.execution: StepExecution | None = None
        self.cleared = True
        self.lock = threading.Lock()


_process = _Process()


@contextlib.contextmanager
def fenced(execution: StepExecution) -> Iterator[None]:
    """While a step executes: its connections are marked, and opened only while it is this process's."""
    _process.execution = execution
    _process.cleared = not (execution.has_predecessors or execution.supersedes_run)
    try:
        yield
    finally:
        _process.execution = None


def check_lease() -> None:
    """Make sure that the step that executes here is still this process's.

    Raises:
        FailedToConnectError: it cannot be shown.
    """
    if _process.execution is not None:
        try:
            _process.execution.check_lease()
        except Exception as error:
            raise FailedToConnectError(str(error)) from error


def end_earlier_connections(adapter: Any) -> None:
    """End what earlier executions left on the server, where that was not done before.

    Raises:
        FailedToConnectError: the server cannot be asked, or does not do it.
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
    """What dbt's factory keeps its adapters in: those that it makes open fenced connections."""

    def __setitem__(self, name: str, adapter: Any) -> None:
        duckdb_connections.record()
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
    # dbt asks the manager for it each time (dbt.adapters.base.connections.set_connection_name)
    adapter.connections.open = fenced_open


def require_fence(adapter: Any) -> None:
    """Make sure that an adapter came through `FencedAdapters`.

    Raises:
        DbtUsageError: this release of dbt keeps its adapters elsewhere.
    """
    if not getattr(adapter.connections.open, "fenced", False):
        raise DbtUsageError(
            "this release of dbt makes its adapters where dbt-relay cannot fence their connections: a worker that lost "
            "a node could go on writing. Install a release that is supported (docs/dbt-releases.md)"
        )
