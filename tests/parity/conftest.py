"""Pairs of a project: plain dbt on one copy, live workers on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parity.compare import Allowance
from tests.parity.harness import Pair
from tests.parity.sides import PlainDbt, Relay
from tests.parity.warehouses import DuckDBFile, PostgresDatabase
from tests.support.postgres_server import PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPool, WorkerPools


@pytest.fixture(scope="session")
def live_workers(redis_server: RedisServer) -> Iterator[WorkerPool]:
    """Two processes that live through all sequences: what one left behind must not touch the next."""
    redis_server.flush()
    with WorkerPools.on(redis_server) as pools:
        yield pools(2)


@pytest.fixture(scope="session")
def postgres_workers(
    redis_server: RedisServer, postgres: PostgresServer, live_workers: WorkerPool
) -> Iterator[WorkerPool]:
    """Two processes that have PostgreSQL's password of their own, for secrets do not travel.

    They take the place of `live_workers`, on the same queue, for the rest of the session.
    """
    live_workers.stop()
    with postgres.database() as database, WorkerPools.on(redis_server) as pools:
        yield pools(2, env={name: value for name, value in database.env.items() if "SECRET" in name})


@pytest.fixture
def duckdb_pair(tmp_path: Path, live_workers: WorkerPool) -> Callable[..., Pair]:
    """``duckdb_pair("demo")``: the project twice, each with a DuckDB file of its own."""

    def make(project: str, *, allowance: Allowance | None = None, **env: str) -> Pair:
        sides = []
        for kind, name in ((PlainDbt, "plain"), (Relay, "relay")):
            folder = tmp_path / name
            copy_project(project, folder / "project")
            file = folder / "warehouse.duckdb"
            values = {"DATABASE_PATH": str(file), "RELAY_TEST_DUCKDB": str(file), **env}
            sides.append(kind(name, folder, DuckDBFile(file), values))
        assert isinstance(sides[1], Relay)
        sides[1].broker_url = live_workers.broker
        return Pair(*sides, allowance=allowance or Allowance())

    return make


@pytest.fixture
def postgres_pair(
    tmp_path: Path, postgres_workers: WorkerPool, postgres: PostgresServer
) -> Iterator[Callable[..., Pair]]:
    """``postgres_pair("features")``: the project twice, each with a database of its own."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def make(project: str, *, allowance: Allowance | None = None, **env: str) -> Pair:
            sides = []
            for kind, name in ((PlainDbt, "plain"), (Relay, "relay")):
                folder = tmp_path / name
                copy_project(project, folder / "project")
                database = stack.enter_context(postgres.database())
                values = {**database.env, "DBT_TARGET": "postgres", **env}
                warehouse = PostgresDatabase(database.connect, database.dbname)
                sides.append(kind(name, folder, warehouse, values))
            assert isinstance(sides[1], Relay)
            sides[1].broker_url = postgres_workers.broker
            return Pair(*sides, allowance=allowance or Allowance())

        yield make
