"""Temporary warehouses: a DuckDB file or a Postgres schema for each copy of a project."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.support.postgres_server import NoPostgresError, PostgresDatabase, PostgresServer


class Warehouse(Protocol):
    """A warehouse with a separate part for each copy of a project."""

    name: str
    """Display name."""

    def output(self, copy: str) -> dict[str, Any]:
        """Output of the copy's profile."""

    def execute(self, copy: str, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        """Execute statements in one transaction. Returns the rows of the last one."""

    def prepare(self, copy: str, units: int) -> None:
        """Create the data of a copy that `busy` reads for up to `units`."""

    def busy(self, units: int) -> str:
        """SQL of a number, whose computation takes time proportional to `units`."""


class DuckDB:
    """A file for each copy."""

    name = "DuckDB"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def output(self, copy: str) -> dict[str, Any]:
        return {
            "type": "duckdb",
            "path": str(self._folder / f"{copy}.duckdb"),
            "schema": "main",
            "threads": 4,
        }

    def execute(self, copy: str, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        import duckdb

        with duckdb.connect(str(self._folder / f"{copy}.duckdb")) as connection:
            connection.begin()
            for each in statements:
                rows = connection.execute(each).fetchall()
            connection.commit()
        return rows

    def prepare(self, copy: str, units: int) -> None:
        numbers = f"create or replace table work.numbers as select range as n from range({units})"
        self.execute(copy, ["create schema if not exists work", numbers])

    def busy(self, units: int) -> str:
        """Scans a table, which DuckDB does on all cores; `range` would use one."""
        return f"select sum(hash(md5(n::varchar)) % 7) from work.numbers where n < {units}"


class Postgres:
    """A schema for each copy."""

    name = "Postgres"

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def output(self, copy: str) -> dict[str, Any]:
        at = self._database
        return {
            "type": "postgres", "host": at.host, "port": at.port, "user": at.user, "password": at.password,
            "dbname": at.dbname, "schema": copy, "threads": 4,
        }  # fmt: skip

    def execute(self, copy: str, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"begin; create schema if not exists {copy}; set search_path to {copy}")
            for each in statements:
                cursor.execute(each)
            rows = list(cursor.fetchall()) if cursor.description else []
            cursor.execute("commit")
        return rows

    def prepare(self, copy: str, units: int) -> None:
        pass

    def busy(self, units: int) -> str:
        """Uses one core, as Postgres does for most queries of this length; reads and writes no data."""
        return f"select sum(sqrt(n) * (n % 7)) from (select generate_series(1, {units}) as n) as numbers"


@contextlib.contextmanager
def warehouses(folder: Path, notes: list[str]) -> Iterator[list[Warehouse]]:
    """Yield DuckDB and, if there is a server, Postgres; otherwise add a note."""
    with contextlib.ExitStack() as stack:
        found: list[Warehouse] = [DuckDB(folder / "duckdb")]
        try:
            server = PostgresServer()
        except NoPostgresError as error:
            notes.append(f"Postgres was not measured: {error}.")
        else:
            stack.callback(server.close)
            server.start()
            found.append(Postgres(stack.enter_context(server.database())))
        yield found


def relations(warehouse: Warehouse, copy: str) -> set[tuple[str, str]]:
    """Name and type of each table and view of a copy."""
    schema = warehouse.output(copy)["schema"]
    sql = f"select table_name, table_type from information_schema.tables where table_schema = '{schema}'"
    return {(str(name), str(kind)) for name, kind in warehouse.execute(copy, [sql])}


def units_per_second(warehouse: Warehouse) -> float:
    """Units of `Warehouse.busy` a second on this machine: the best of three measurements."""
    units = 200_000
    while True:
        units *= 2
        warehouse.prepare("calibration", units)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            warehouse.execute("calibration", [warehouse.busy(units)])
            took.append(time.perf_counter() - began)
        if min(took) > 0.2:  # long enough for a measurement
            return units / min(took)
