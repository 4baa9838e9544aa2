"""Fixtures that every test may use: real servers, real workers, projects to run.

A test that kills or restarts a server asks for one of its own (`make_redis`); the shared ones are
for everybody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from tests.support import projects
from tests.support.postgres_server import NoPostgresError, PostgresDatabase, PostgresServer
from tests.support.redis_server import NoServerError, RedisServer
from tests.support.waiting import wait_until as wait_until_true
from tests.support.worker_pool import WorkerPools
from workers.engine.caller import thread_locks

thread_locks.install()  # as in a worker, before a test module imports dbt
settings.register_profile("relay", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("relay")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing of the caller's environment decides what a test does."""
    for name in list(os.environ):
        if name.startswith(("DBT_", "PG")) or name in {"REDIS_URL", "DATABASE_PATH"}:
            del os.environ[name]
    os.environ["DO_NOT_TRACK"] = "1"
    # a shell's background job ignores SIGINT and `nohup` SIGHUP, and so would every process that a test starts
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that each supported release of dbt-core has to pass, in a step of its own: the engine's, the
    short comparison with plain dbt, and some of dbt's own adapter tests. Unit tests come last: short as their files
    are, they fill the time while another process is at a long one.
    """
    items.sort(key=lambda item: item.path.parent.name == "unit")
    for item in items:
        of_engine = item.path.parent.name in {"integration", "unit"} and "engine" in item.path.name
        compared = item.path.parent.name in {"parity", "conformance"} and not item.get_closest_marker(
            "parity"
        )
        if of_engine or compared:
            item.add_marker("dbt_releases")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the workers that ran with it said."""
    report = yield
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        report.sections.extend((f"log of {pool.name}", pool.log()) for pool in WorkerPools.live)
    return report


def _missing(reason: Exception) -> None:
    """Without a server its tests are skipped, but never in CI."""
    if "CI" in os.environ:
        pytest.fail(str(reason))
    pytest.skip(str(reason))


# Redis


@contextlib.contextmanager
def _running() -> Iterator[RedisServer]:
    try:
        server = RedisServer()
    except NoServerError as error:
        _missing(error)
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server that all tests share, on a unix socket. Kill one of `make_redis` instead."""
    with _running() as server:
        yield server


@pytest.fixture(scope="session")
def long_lived_server() -> Iterator[RedisServer]:
    """A server for workers that live through many files: on the shared one they would take others' work."""
    with _running() as server:
        yield server


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the shared server, which is empty when the test starts.

    Where workers of a wider scope are running, what they rely on stays (`RedisServer.clear`).
    """
    if WorkerPools.live:
        redis_server.clear()
    else:
        redis_server.flush()
    with redis_server.client() as client:
        yield client


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of the test's own: ``make_redis(tcp=True, password="…", maxmemory="50mb")``."""
    made: list[RedisServer] = []

    def make(*, tcp: bool = False, password: str | None = None, **options: str) -> RedisServer:
        try:
            server = RedisServer(tcp=tcp, password=password, **options)
        except NoServerError as error:
            _missing(error)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.close()


# workers


@pytest.fixture
def worker_pool(redis_server: RedisServer) -> Iterator[WorkerPools]:
    """Starts Celery workers: ``worker_pool(n=2, env={…}, broker=…)`` gives a `WorkerPool`."""
    with WorkerPools.on(redis_server) as pools:
        yield pools


@pytest.fixture(scope="module")
def module_worker_pool(redis_server: RedisServer) -> Iterator[WorkerPools]:
    """As `worker_pool`, for workers that the tests of a file share. It starts on an empty server."""
    redis_server.flush()
    with WorkerPools.on(redis_server) as pools:
        yield pools


# warehouses


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server that all tests share. Whoever stops it starts it again."""
    try:
        server = PostgresServer()
    except NoPostgresError as error:
        _missing(error)
    server.start()
    yield server
    server.close()


@pytest.fixture
def postgres_database(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresDatabase]:
    """A database of the test's own; what profiles read of it is in the environment too."""
    with postgres.database() as database:
        for name, value in database.env.items():
            monkeypatch.setenv(name, value)
        yield database


@pytest.fixture
def duckdb_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test's DuckDB file will be; what profiles read of it is in the environment too."""
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("RELAY_TEST_DUCKDB", str(path))
    monkeypatch.setenv("DATABASE_PATH", str(path))
    return path


# helpers


@pytest.fixture
def copy_project(tmp_path: Path) -> Callable[..., Path]:
    """``copy_project("small")`` copies a project of tests/projects (``"demo"``: dbt/) into the test's folder."""

    def copy(name: str, destination: Path | None = None) -> Path:
        return projects.copy_project(name, destination or tmp_path / name)

    return copy


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., object]:
    """`tests.support.waiting.wait_until`, for those who like it as a fixture."""
    return wait_until_true


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the first try of a test was that passed at its second: that, too, may be a fault of ours."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"first try of {report.nodeid}", sep="_")
        terminalreporter.line(report.longreprtext[-8000:])
