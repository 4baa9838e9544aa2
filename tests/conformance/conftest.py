"""dbt's functional fixtures on our warehouses; `run_dbt` uses plain dbt or dbt-relay."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dbt.tests.util
import pytest
from dbt.tests.fixtures.project import *  # noqa: F403 - fixtures, by name

from tests.conformance import clock
from tests.conformance.classes import PACKAGE, SIDES
from tests.conformance.record import Recorder
from tests.conformance.runner import ConformanceRunner, Relay, release_warehouse
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPools

# `run_dbt` and `run_dbt_and_capture` look up this name on each call.
dbt.tests.util.dbtRunner = ConformanceRunner

DATABASES = ("dbt", "dbtMixedCase")
GRANTEES = ("dbt_test_user_1", "dbt_test_user_2", "dbt_test_user_3")


@pytest.fixture(scope="session")
def relay(long_lived_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Two live worker processes."""
    clock_file = tmp_path_factory.mktemp("clock") / "clock.json"
    clock_file.write_text("{}")
    with WorkerPools.on(long_lived_server) as pools:
        pool = pools(2, {clock.VARIABLE: str(clock_file)}, arguments=("--include", clock.__name__))
        yield Relay(pool.broker, clock_file)


@pytest.fixture(scope="class", autouse=True)
def side(request: pytest.FixtureRequest) -> Iterator[None]:
    """Choose the side that executes the commands of the class."""
    if getattr(request.cls, "side", "plain") == "relay":
        ConformanceRunner.relay = request.getfixturevalue("relay")
    yield
    release_warehouse()
    ConformanceRunner.relay = None


@pytest.fixture(scope="class")
def logs_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Replaces dbt's fixture, which writes into the checkout."""
    path = str(tmp_path_factory.mktemp("logs"))
    os.environ["DBT_LOG_PATH"] = path
    yield path
    del os.environ["DBT_LOG_PATH"]


@pytest.fixture(scope="class")
def duckdb_target(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Target with a DuckDB file for one class."""
    path: Path = tmp_path_factory.mktemp("warehouse") / "dbt.duckdb"
    return {"type": "duckdb", "threads": 4, "path": str(path)}


@pytest.fixture(scope="session")
def postgres_target(postgres: PostgresServer) -> Iterator[dict[str, Any]]:
    """Target with a database for all classes, named as they expect; each class has its own schema.

    Also creates the users that grants name and a second database, as the set-up of dbt-postgres does.
    """
    with postgres.database() as first, pytest.MonkeyPatch.context() as patch:
        first.query(f"create role root superuser login password '{first.password}'")
        for name in DATABASES:
            first.query(f'create database "{name}"')
        for number, user in enumerate(GRANTEES, start=1):
            first.query(f"create role {user}")
            patch.setenv(f"DBT_TEST_USER_{number}", user)
        yield {
            "type": "postgres", "threads": 4, "host": first.host, "port": first.port, "user": "root",
            "pass": first.password, "dbname": DATABASES[0],
        }  # fmt: skip


@pytest.fixture(scope="class")
def package_folder(request: pytest.FixtureRequest) -> Path:
    """Folder of the published class. Some have data next to them."""
    module = next(each.__module__ for each in request.cls.__mro__ if each.__module__.startswith(PACKAGE))
    return Path(str(sys.modules[module].__file__)).parent


@pytest.fixture(scope="class")
def test_data_dir(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the class's data, because some tests write there and remove it."""
    copy = tmp_path_factory.mktemp("beside") / "data"
    if (package_folder / "data").is_dir():
        shutil.copytree(package_folder / "data", copy)
    return copy


@pytest.fixture(scope="class")
def unique_schema(request: pytest.FixtureRequest, prefix: str) -> str:
    """Schema named after the class's module, as some tests expect in SQL."""
    module = next(each.__module__ for each in request.cls.__mro__ if each.__module__.startswith(PACKAGE))
    return f"{prefix}_{module.rpartition('.')[2]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that `python -m tests.conformance` passes to pytest."""
    group = parser.getgroup("conformance")
    group.addoption("--conformance-record", help="file of outcomes; tests recorded in it are not run again")
    group.addoption("--conformance-side", choices=SIDES, help="which side the pass is for")


def pytest_configure(config: pytest.Config) -> None:
    """Record outcomes if `--conformance-record` is given."""
    path = config.getoption("--conformance-record", None)
    if path:
        worker = hasattr(config, "workerinput")
        config.pluginmanager.register(
            Recorder(Path(path), config.getoption("--conformance-side"), worker=worker)
        )
