"""Fixtures for pairs of project copies: plain dbt runs on one, dbt-relay with live workers on the other."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.parity.harness import FINISHED, Counts, Pair, sum_counts
from tests.support.postgres_server import PostgresServer
from tests.support.processes import without_coverage
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.verify.compare import Allowance
from workers.verify.sides import Side, dbt_program, environment, relay_program
from workers.verify.warehouses import DuckDBFile, PostgresDatabase, Warehouse

COUNTS = "parity"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the counts of a test to its report, because with xdist another process prints the summary."""
    if call.when == "call":
        item.user_properties.extend((COUNTS, list(counts)) for counts in FINISHED)
        FINISHED.clear()
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each project and warehouse: how much was compared, and the differences."""
    reports = (each for group in terminalreporter.stats.values() for each in group)
    calls = (each for each in reports if getattr(each, "when", "") == "call")
    counts = (Counts(*value) for each in calls for name, value in each.user_properties if name == COUNTS)
    lines = sum_counts(counts)
    if lines:
        terminalreporter.section("parity with plain dbt")
    for line in lines:
        terminalreporter.line(str(line), red=bool(line.differences), green=not line.differences)


@pytest.fixture(scope="session")
def live_workers(long_lived_server: RedisServer) -> Iterator[WorkerPool]:
    """Two worker processes for all sequences, so that state of one sequence could affect the next."""
    with WorkerPools.on(long_lived_server) as pools:
        yield pools(2)


@pytest.fixture(scope="session")
def postgres_workers(
    long_lived_server: RedisServer, postgres: PostgresServer, live_workers: WorkerPool
) -> Iterator[WorkerPool]:
    """Two worker processes with the Postgres password in their environment: dbt-relay does not send secrets.

    They replace `live_workers` on the same queue for the rest of the session.
    """
    live_workers.stop()
    with postgres.database() as database, WorkerPools.on(long_lived_server) as pools:
        yield pools(2, env={name: value for name, value in database.env.items() if "SECRET" in name})


def side_of(name: str, folder: Path, warehouse: Warehouse, env: Mapping[str, str], broker: str) -> Side:
    program = dbt_program() if name == "plain" else relay_program()
    values = {**environment(without_coverage()), **env}
    return Side(name, folder, program, warehouse, {**values, "DBT_RELAY_BROKER_URL": broker})


def duckdb_pair_in(
    folder: Path,
    project: str,
    broker: str,
    *,
    allowance: Allowance | None = None,
    make: Callable[[str, Path], object] = copy_project,
    **env: str,
) -> Pair:
    """Two copies of a project below `folder`, each with its own DuckDB file.

    Args:
        make: writes the named project into a folder.
    """
    sides = []
    for name in ("plain", "relay"):
        side_folder = folder / name
        make(project, side_folder / "project")
        file = side_folder / "warehouse.duckdb"
        values = {"DATABASE_PATH": str(file), "RELAY_TEST_DUCKDB": str(file), **env}
        sides.append(side_of(name, side_folder, DuckDBFile(file), values, broker))
    return Pair(*sides, allowance=allowance or Allowance(), about=f"{project} on DuckDB")


@pytest.fixture
def duckdb_pair(tmp_path: Path, live_workers: WorkerPool) -> Callable[..., Pair]:
    """``duckdb_pair("demo")``: two copies of the project, each with its own DuckDB file."""
    return functools.partial(duckdb_pair_in, tmp_path, broker=live_workers.broker)


@pytest.fixture
def postgres_pair(
    tmp_path: Path, postgres_workers: WorkerPool, postgres: PostgresServer
) -> Iterator[Callable[..., Pair]]:
    """``postgres_pair("features")``: two copies of the project, each with its own database."""
    with contextlib.ExitStack() as stack:
        yield functools.partial(
            postgres_pair_in, tmp_path, server=postgres, stack=stack, broker=postgres_workers.broker
        )


def postgres_pair_in(
    folder: Path,
    project: str,
    server: PostgresServer,
    stack: contextlib.ExitStack,
    broker: str,
    *,
    allowance: Allowance | None = None,
    **env: str,
) -> Pair:
    """Two copies of a project below `folder`, each with its own database until `stack` is closed."""
    sides = []
    for name in ("plain", "relay"):
        side_folder = folder / name
        copy_project(project, side_folder / "project")
        database = stack.enter_context(server.database())
        values = {**database.env, "DBT_TARGET": "postgres", **env}
        warehouse = PostgresDatabase(database.connect, database.dbname)
        sides.append(side_of(name, side_folder, warehouse, values, broker))
    return Pair(*sides, allowance=allowance or Allowance(), about=f"{project} on PostgreSQL")
