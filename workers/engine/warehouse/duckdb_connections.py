"""Every connection that a step of this process opens with the `duckdb` module, so that all of them can be closed.

dbt-duckdb keeps a connection that it opened only once everything after that succeeded too: extensions, secrets,
plugins and attached files (dbt.adapters.duckdb.environments.Environment.initialize_db). One that failed after it
was opened belongs to nobody and is reached by the frames of a traceback alone. A Python model may open connections
of its own. In a dbt process all of them end with the process. A worker process goes on, and DuckDB keeps a file
locked as long as any connection to it is open.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

_opened: list[weakref.ref[Any]] = []
_lock = threading.Lock()
_steps = 0


def install() -> None:
    """Make `duckdb.connect` record what it opens in a step. Does nothing where `duckdb` is not imported."""
    duckdb: Any = sys.modules.get("duckdb")
    if duckdb is None or hasattr(duckdb.connect, "__wrapped__"):
        return
    connect = duckdb.connect

    @functools.wraps(connect)
    def recording(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        if _steps:
            with _lock:
                _opened.append(weakref.ref(connection))
        return connection

    duckdb.connect = recording


@contextlib.contextmanager
def step() -> Iterator[None]:
    """While a step executes, in whatever threads: the connections that are opened are the step's."""
    global _steps  # noqa: PLW0603 - of the process, as the files are
    _steps += 1
    try:
        yield
    finally:
        _steps -= 1


def close_all() -> None:
    """Close whatever a step opened and is open still."""
    with _lock:
        opened = [reference() for reference in _opened]
        _opened.clear()
    for connection in opened:
        if connection is not None:
            with contextlib.suppress(Exception):  # whatever the driver says
                connection.close()
