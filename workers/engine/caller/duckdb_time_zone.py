"""Sets the caller's time zone in DuckDB databases that a step opens.

DuckDB's ICU library reads the process's time zone once, when duckdb is imported. Later changes of ``TZ`` have no
effect, so the zone is set in each database instead.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from workers.contract.log import log

_PRINT_ZONE = (
    "import sys; sys.path[:] = sys.argv[1:]; import duckdb; "
    "print(duckdb.connect().execute(\"select current_setting('TimeZone')\").fetchone()[0])"
)
_PRINT_ZONE_TIMEOUT = 60.0  # seconds


class _AtImport:
    """The ``TZ`` that was set when this process imported duckdb."""

    imported = "duckdb" in sys.modules
    zone = os.environ.get("TZ")


@contextlib.contextmanager
def duckdb_in_callers_zone() -> Iterator[None]:
    """Open DuckDB databases with the time zone of ``TZ`` in `os.environ`, as a new process would."""
    zone = os.environ.get("TZ")
    if not _AtImport.imported and "duckdb" in sys.modules:  # imported between two steps
        _AtImport.imported = True
    if not _AtImport.imported or zone == _AtImport.zone:
        try:
            yield
        finally:
            if not _AtImport.imported and "duckdb" in sys.modules:
                _AtImport.imported, _AtImport.zone = True, zone
        return
    duckdb: Any = sys.modules["duckdb"]
    connect = duckdb.connect

    @functools.wraps(connect)
    def connect_in_zone(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        name = _zone_of(zone)
        if name:
            with contextlib.suppress(duckdb.Error):  # ICU reports some zone names that it does not accept
                connection.execute(f"set global TimeZone = '{name}'")
        return connection

    duckdb.connect = connect_in_zone
    try:
        yield
    finally:
        duckdb.connect = connect


@functools.lru_cache(maxsize=64)
def _zone_of(zone: str | None) -> str:
    """Name of the zone that DuckDB uses in a process started with this ``TZ``; empty where that is unknown.

    Starts a Python process to find out: only ICU knows how it interprets ``JST-9``, ``:Asia/Tokyo`` or a zone that
    is not installed.
    """
    env = {name: value for name, value in os.environ.items() if name != "TZ"}
    if zone is not None:
        env["TZ"] = zone
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PRINT_ZONE, *sys.path], env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_PRINT_ZONE_TIMEOUT, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log("DuckDB's time zone not found", zone=zone, error=str(error))
        return ""
    return done.stdout.strip().replace("'", "''")
