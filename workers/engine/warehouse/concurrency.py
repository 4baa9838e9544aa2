"""Whether several processes may use a warehouse at once; opening and closing this process's connections."""

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
    """Name of the single-process warehouse that a target uses; None where several processes may write.

    Only one process at a time can open a DuckDB file for writing. MotherDuck, DuckLake on a server and every server
    warehouse accept many.
    """
    credentials: Any = config.credentials
    return local_warehouse(credentials) if credentials.type == "duckdb" else None


def unsplittable_reason(config: RuntimeConfig, flags: Any) -> str | None:
    """Why a run must be executed in one process, or None where its nodes can be distributed."""
    credentials: Any = config.credentials
    if credentials.type == "duckdb" and in_memory(credentials.path):
        return "an in-memory DuckDB exists in one process only"
    if getattr(flags, "SHOW", False):
        return "--show prints the loaded seeds, which only the process that loaded them has"
    for name, reason in _SINGLE_PROCESS_OPTIONS.items():
        if getattr(flags, name, None):
            return reason
    return None


_SINGLE_PROCESS_OPTIONS = {
    "RECORD_TIMING_INFO": "--record-timing-info profiles one process",
    "SHOW_RESOURCE_REPORT": "--show-resource-report measures one process",
    "UPLOAD_TO_ARTIFACTS_INGEST_API": "--upload-to-artifacts-ingest-api sends the files of one process",
}
"""Options that dbt applies around a whole command (dbt.cli.requires: preflight, postflight)."""


def open_warehouse(adapter: Any) -> None:
    """Open the DuckDB database again after `close_warehouse`, on the thread's connection.

    A Python model on DuckDB expects the database to be open. In a dbt process, filling the relation cache opened it.
    """
    if adapter.type() == "duckdb" and adapter.connections._ENV is None:
        _ = adapter.connections.get_thread_connection().handle


def duckdb_is_open() -> bool:
    """Whether dbt-duckdb has the profile's database open."""
    duckdb: Any = sys.modules.get("dbt.adapters.duckdb.connections")
    environment = duckdb.DuckDBConnectionManager._ENV if duckdb is not None else None
    return getattr(environment, "conn", None) is not None


def close_warehouse() -> None:
    """Close every connection of this process, so that other processes can open its DuckDB files.

    A connection that raises while it is closed, for example after a failed transaction, does not keep others open.
    """
    with contextlib.ExitStack() as closing:  # runs every callback, even after one raises
        closing.callback(duckdb_connections.close_all)
        closing.callback(_close_environment)
        adapters: list[Any] = list(FACTORY.adapters.values())
        for adapter in adapters:
            closing.callback(adapter.cleanup_connections)


def _close_environment() -> None:
    """Close the file that dbt-duckdb's class keeps open, whichever adapter opened it."""
    duckdb = sys.modules.get("dbt.adapters.duckdb.connections")
    if duckdb is not None:
        manager: Any = duckdb.DuckDBConnectionManager
        environment = manager._ENV
        manager.close_all_connections()
        if environment is not None:
            environment.close()


def cancel_queries() -> None:
    """Interrupt the queries of all connections of this process."""
    adapters: list[Any] = list(FACTORY.adapters.values())
    for adapter in adapters:
        manager: Any = adapter.connections
        with manager.lock:
            open_connections = [
                connection for connection in manager.thread_connections.values()
                # reading `handle` opens a connection that is not open yet (dbt's LazyHandle)
                if str(connection.state) == "open" and connection.handle is not None
            ]  # fmt: skip
        # server adapters cancel a query over the calling thread's connection, so this thread needs one
        cancelling: Any = (
            nullcontext() if adapter.type() == "duckdb" else adapter.connection_named(CANCELLING)
        )
        with cancelling:
            for connection in open_connections:
                manager.cancel(connection)
