"""Fixtures for all tests: real servers, real workers, dbt projects.

A test that kills or restarts a server uses its own server (`make_redis`), not a shared one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
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
    """Remove settings of the caller's environment that would change a test."""
    for name in list(os.environ):
        if name.startswith(("DBT_", "PG")) or name in {"REDIS_URL", "DATABASE_PATH"}:
            del os.environ[name]
    os.environ["DO_NOT_TRACK"] = "1"
    # A shell's background job ignores SIGINT, and `nohup` SIGHUP. Processes of a test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


_OF_THE_ENGINE = re.compile(
    r"(from|import) (dbt\b|workers\.engine\.(project|execution|template_state|output|caller|warehouse|patches|startup))"
)


@functools.cache
def imports_dbt(path: Path) -> bool:
    """Whether a test module imports dbt, or a part of the engine that does."""
    return _OF_THE_ENGINE.search(path.read_text(encoding="utf-8")) is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that each supported release of dbt-core must pass (``dbt_releases``), and sort unit tests last.

    Those are the tests of modules that import dbt, the engine's integration tests, the short comparison with plain dbt,
    and some of dbt's adapter tests. Unit tests come last because they are short: they fill the time while another xdist
    process runs a long file.
    """
    items.sort(key=lambda item: item.path.parent.name == "unit")
    for item in items:
        of_engine = item.path.parent.name == "integration" and "engine" in item.path.name
        compared = item.path.parent.name in {"parity", "conformance"} and not item.get_closest_marker(
            "parity"
        )
        if of_engine or compared or (item.path.parent.name == "unit" and imports_dbt(item.path)):
            item.add_marker("dbt_releases")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the workers' logs to the report of a failed test."""
    report = yield
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        report.sections.extend((f"log of {pool.name}", pool.log()) for pool in WorkerPools.live)
    return report


def _missing(reason: Exception) -> None:
    """Skip the test, or fail it in CI."""
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
    """The shared server, on a unix socket. Tests must not stop it: see `make_redis`."""
    with _running() as server:
        yield server


@pytest.fixture(scope="session")
def long_lived_server() -> Iterator[RedisServer]:
    """A server for workers that run for the whole session. On the shared server they would execute other tests' runs."""
    with _running() as server:
        yield server


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the shared server, which is empty when the test starts, but for keys of running workers
    (`RedisServer.clear`)."""
    if WorkerPools.live:
        redis_server.clear()
    else:
        redis_server.flush()
    with redis_server.client() as client:
        yield client


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers for one test: ``make_redis(tcp=True, password="…", maxmemory="50mb")``."""
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
    """Starts Celery workers: ``worker_pool(n=2, env={…}, broker=…)`` returns a `WorkerPool`."""
    with WorkerPools.on(redis_server) as pools:
        yield pools


@pytest.fixture(scope="module")
def module_worker_pool(redis_server: RedisServer) -> Iterator[WorkerPools]:
    """As `worker_pool`, for workers that the tests of a file share. The server is empty at the start."""
    redis_server.flush()
    with WorkerPools.on(redis_server) as pools:
        yield pools


# warehouses


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The shared Postgres server. A test that stops it must start it again."""
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
    """A database for one test. Sets the environment variables that profiles read."""
    with postgres.database() as database:
        for name, value in database.env.items():
            monkeypatch.setenv(name, value)
        yield database


@pytest.fixture
def duckdb_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a DuckDB file for one test. Sets the environment variables that profiles read."""
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
    """`tests.support.waiting.wait_until` as a fixture."""
    return wait_until_true


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the first failure of a test that passed when it was run again: it may be a bug."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"first try of {report.nodeid}", sep="_")
        terminalreporter.line(report.longreprtext[-8000:])
