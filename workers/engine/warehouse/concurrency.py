"""What a warehouse allows: how many processes may write at once, and how to let go of it."""

from __future__ import annotations

import contextlib
import sys
from contextlib import nullcontext
from typing import Any

from dbt.adapters.factory import FACTORY
from dbt.config.runtime import RuntimeConfig

from workers.engine.warehouse import duckdb_connections
from workers.engine.warehouse.duckdb_files import in_memory, local_warehouse
from workers.engine.warehouse.fencing import CANCELLING


def warehouse_of(config: RuntimeConfig) -> str | None:
    """The name of the single-process warehouse that a target needs, or None where many may write.

    A DuckDB file belongs to one process at a time. MotherDuck, DuckLake over a server, and every
    server warehouse take many.
    """
    credentials: Any = config.credentials
    return local_warehouse(credentials) if credentials.type == "duckdb" else None


def unsplittable_reason(config: RuntimeConfig, flags: Any) -> str | None:
    """Why a run cannot be split over processes, or None when it can."""
    credentials: Any = config.credentials
    if credentials.type == "duckdb" and in_memory(credentials.path):
        return "an in-memory DuckDB lives in one process"
    if getattr(flags, "SHOW", False):
        return "--show prints the loaded seeds, which only the process that loaded them has"
    for name, reason in _OF_ONE_PROCESS.items():
        if getattr(flags, name, None):
            return reason
    return None


_OF_ONE_PROCESS = {
    "RECORD_TIMING_INFO": "--record-timing-info profiles one process",
    "SHOW_RESOURCE_REPORT": "--show-resource-report measures one process",
    "UPLOAD_TO_ARTIFACTS_INGEST_API": "--upload-to-artifacts-ingest-api sends the files of one process",
}
"""Options that dbt's command line carries out around the command (dbt.cli.requires: preflight, postflight)."""


def open_warehouse(adapter: Any) -> None:
    """Open what `close_warehouse` closed, on the thread's connection. A Python model on DuckDB asks for the
    open database without opening it: in a dbt process, filling the relation cache did."""
    if adapter.type() == "duckdb" and adapter.connections._ENV is None:
        _ = adapter.connections.get_thread_connection().handle


def duckdb_is_open() -> bool:
    """Whether dbt-duckdb has opened what the profile names and not closed it since."""
    duckdb: Any = sys.modules.get("dbt.adapters.duckdb.connections")
    environment = duckdb.DuckDBConnectionManager._ENV if duckdb is not None else None
    return getattr(environment, "conn", None) is not None


def close_warehouse() -> None:
    """Close every connection of this process; a DuckDB file is free for others afterwards.

    One that cannot be closed in good order, after a failed transaction, say, keeps no other open.
    """
    with contextlib.ExitStack() as closing:  # from the last to the first, also where one of them raises
        closing.callback(duckdb_connections.close_all)
        closing.callback(_close_environment)
        adapters: list[Any] = list(FACTORY.adapters.values())
        for adapter in adapters:
            closing.callback(adapter.cleanup_connections)


def _close_environment() -> None:
    """dbt-duckdb keeps the file open in its class, whichever adapter opened it."""
    duckdb = sys.modules.get("dbt.adapters.duckdb.connections")
    if duckdb is not None:
        manager: Any = duckdb.DuckDBConnectionManager
        environment = manager._ENV
        manager.close_all_connections()
        if environment is not None:
            environment.close()


def cancel_queries() -> None:
    """Interrupt whatever this process's connections are executing."""
    adapters: list[Any] = list(FACTORY.adapters.values())
    for adapter in adapters:
        manager: Any = adapter.connections
        with manager.lock:
            open_connections = [
                connection for connection in manager.thread_connections.values()
                # one that is not open would be opened by asking for its handle (dbt's LazyHandle)
                if str(connection.state) == "open" and connection.handle is not None
            ]  # fmt: skip
        # dbt's adapters ask the server to end a query over the calling thread's own connection, which
        # this thread must have; DuckDB has no server to ask
        own: Any = nullcontext() if adapter.type() == "duckdb" else adapter.connection_named(CANCELLING)
        with own:
            for connection in open_connections:
                manager.cancel(connection)
