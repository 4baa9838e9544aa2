"""Records every connection that a step opens with the `duckdb` module, so that the worker can close them all.

DuckDB keeps a file locked while any connection to it is open, and a worker process outlives its steps. Two kinds of
connections are not closed otherwise. dbt-duckdb loses its connection if loading extensions, secrets, plugins or
attached files fails (dbt.adapters.duckdb.environments.Environment.initialize_db). And a Python model may open
connections itself.
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
    """Make `duckdb.connect` record the connections that it opens in a step. No effect before `duckdb` is imported."""
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
    """Record the connections that any thread opens while a step executes."""
    global _steps  # noqa: PLW0603 - DuckDB's file locks belong to the process, too
    _steps += 1
    try:
        yield
    finally:
        _steps -= 1


def close_all() -> None:
    """Close every recorded connection that is still open."""
    with _lock:
        opened = [reference() for reference in _opened]
        _opened.clear()
    for connection in opened:
        if connection is not None:
            with contextlib.suppress(Exception):  # drivers raise errors of any type
                connection.close()
