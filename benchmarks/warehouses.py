"""Throw-away warehouses: a DuckDB file or a Postgres schema for each copy of a project."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.support.postgres_server import NoPostgresError, PostgresDatabase, PostgresServer


class Warehouse(Protocol):
    """A place for several copies of a project, each in a part of its own."""

    name: str
    """For people."""

    def output(self, copy: str) -> dict[str, Any]:
        """The output of a copy's profile."""

    def execute(self, copy: str, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        """Execute statements in one transaction; the rows of the last one."""

    def prepare(self, copy: str, units: int) -> None:
        """Make in a copy what `busy` of so many units reads."""

    def busy(self, units: int) -> str:
        """A query of one number that computes, for as long as `units` say."""


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
        """On all cores, as DuckDB scans a table; `range` itself has one."""
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
        """On one core, as Postgres executes most queries of this length; nothing is kept or written."""
        return f"select sum(sqrt(n) * (n % 7)) from (select generate_series(1, {units}) as n) as numbers"


@contextlib.contextmanager
def warehouses(folder: Path, notes: list[str]) -> Iterator[list[Warehouse]]:
    """DuckDB, and Postgres where there is a server; a note says where there is none."""
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
    """How much of `Warehouse.busy` this machine does in a second, alone and at its best of three."""
    units = 200_000
    while True:
        units *= 2
        warehouse.prepare("calibration", units)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            warehouse.execute("calibration", [warehouse.busy(units)])
            took.append(time.perf_counter() - began)
        if min(took) > 0.2:  # long enough to be measured
            return units / min(took)
