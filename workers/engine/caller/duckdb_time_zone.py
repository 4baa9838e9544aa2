"""The time zone of DuckDB databases that are opened during a step.

DuckDB's ICU library reads the zone of the process once, when duckdb is imported, and keeps it. So a later
change of ``TZ`` does not reach it, and the zone is set in each database instance instead.
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

_ASK = (
    "import sys; sys.path[:] = sys.argv[1:]; import duckdb; "
    "print(duckdb.connect().execute(\"select current_setting('TimeZone')\").fetchone()[0])"
)
_ASK_SECONDS = 60.0


class _Imported:
    """The ``TZ`` with which this process imported duckdb; `known` once it did."""

    known = "duckdb" in sys.modules
    zone = os.environ.get("TZ")


@contextlib.contextmanager
def duckdb_in_callers_zone() -> Iterator[None]:
    """Databases that are opened within have the zone of the environment's ``TZ``, as in a fresh process."""
    zone = os.environ.get("TZ")
    if not _Imported.known and "duckdb" in sys.modules:  # imported since, between two steps
        _Imported.known = True
    if not _Imported.known or zone == _Imported.zone:
        try:
            yield
        finally:
            if not _Imported.known and "duckdb" in sys.modules:
                _Imported.known, _Imported.zone = True, zone
        return
    duckdb: Any = sys.modules["duckdb"]
    connect = duckdb.connect

    @functools.wraps(connect)
    def connect_in_zone(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        name = _zone_of(zone)
        if name:
            with contextlib.suppress(duckdb.Error):  # ICU does not take back each name that it finds itself
                connection.execute(f"set global TimeZone = '{name}'")
        return connection

    duckdb.connect = connect_in_zone
    try:
        yield
    finally:
        duckdb.connect = connect


@functools.lru_cache(maxsize=64)
def _zone_of(zone: str | None) -> str:
    """The name of DuckDB's zone in a process that starts with a ``TZ``, or an empty string if it cannot be found.

    A process of its own says so: ICU alone knows what it makes of ``JST-9``, ``:Asia/Tokyo`` or a zone that is
    not installed.
    """
    env = {name: value for name, value in os.environ.items() if name != "TZ"}
    if zone is not None:
        env["TZ"] = zone
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, *sys.path], env=env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=_ASK_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log("DuckDB's time zone not found", zone=zone, error=str(error))
        return ""
    return done.stdout.strip().replace("'", "''")
