"""Workers with different releases of dbt on one queue: a run stays with the release that planned it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli import stack as cli_stack
from tests.support.processes import without_coverage
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import client, runner, submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool
from workers.contract.command_line import EXPIRY_SECONDS
from workers.contract.keys import Keys
from workers.engine.dbt_release import adapters, release

OTHER = "1.99.0"
Start = Callable[[str], WorkerPool]


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project on the warehouse that the test names."""
    monkeypatch.setenv("RELAY_TEST_TARGET", request.param)
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
    else:
        monkeypatch.setenv("RELAY_TEST_DUCKDB", str(tmp_path / "small.duckdb"))
    return copy_project("small", tmp_path / "project")


ON_BOTH = pytest.mark.parametrize(
    "small", ["duckdb", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def start(redis_server: RedisServer) -> Iterator[Start]:
    """Starts a worker of one process that takes itself for one with a release of dbt."""
    redis_server.flush()
    with contextlib.ExitStack() as stack:

        def worker(dbt: str) -> WorkerPool:
            pool = WorkerPool(
                redis_server,
                1,
                env={**without_coverage(), "TEST_DBT_RELEASE": dbt},
                app="tests.support.other_dbt",
            )
            stack.callback(pool.close)
            return pool.start()

        yield worker


def planned_with(server: RedisServer, run_id: str, dbt: str) -> None:
    """As if a worker with that release had planned the run."""
    with server.client() as redis:
        redis.hset(Keys().run(run_id), "dbt", dbt)


@ON_BOTH
def test_a_run_does_not_alternate_between_releases(
    small: Path, start: Start, redis_server: RedisServer
) -> None:
    pools = [start(release()), start(OTHER)]
    dbt = runner(redis_server, small)
    for _ in range(4):
        result = dbt.execute_command(["build"], stream_output=False)
        assert result.success, result.stdout
        homes = {
            pool.name for pool in pools for attempt in result.attempts
            if int(attempt.worker.rpartition(":")[2]) in pool.children
        }  # fmt: skip
        assert len(homes) == 1
        assert {(attempt.number, attempt.status) for attempt in result.attempts} <= {
            (1, "success"), (1, "succeeded"), (1, "pass")
        }  # fmt: skip


@pytest.mark.parametrize("small", ["duckdb"], indirect=True)
def test_a_run_waits_for_the_release_that_planned_it_and_says_so(
    small: Path, start: Start, redis_server: RedisServer
) -> None:
    resumed, cancelled = (submit(redis_server, small, ["build"]) for _ in range(2))
    for run_id in (resumed, cancelled):
        planned_with(redis_server, run_id, "1.0.0")
    start(OTHER)
    relay = client(redis_server)
    for run_id in (resumed, cancelled):
        said = next(event for event in relay.watch(run_id, timeout=60) if event.state == "waiting")
        assert "planned with dbt-core 1.0.0" in said.text
        assert f"workers have: {OTHER}" in said.text
    relay.cancel(cancelled)
    result = relay.result(cancelled, timeout=60)
    assert (result.return_code, result.error and result.error.code) == (1, "cancelled")
    assert {attempt.number for attempt in result.attempts} == {1}
    start("1.0.0")
    result = relay.result(resumed, timeout=60)
    assert result.success, result.stdout
    assert {attempt.number for attempt in result.attempts} == {1}


@pytest.mark.parametrize("small", ["duckdb"], indirect=True)
def test_workers_say_which_dbt_they_have(
    small: Path, start: Start, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(release())
    relay = client(redis_server)
    (worker,) = relay.workers()
    assert (worker.dbt, worker.adapters) == (release(), adapters())
    described = relay.command_line(release())
    assert described is not None
    assert described["dbt_versions"] == (release(),)
    with redis_server.client() as redis:
        assert 0 < redis.ttl(Keys().command_line(release())) <= EXPIRY_SECONDS
    monkeypatch.setenv("DBT_RELAY_BROKER_URL", redis_server.broker_url)
    said = CliRunner().invoke(cli_stack.status, standalone_mode=False)
    assert f"dbt-core {release()}, duckdb" in said.output
    assert "warning" not in said.output
    start(OTHER)
    wait_until(lambda: len(relay.workers()) == 2, 10)
    said = CliRunner().invoke(cli_stack.status, standalone_mode=False)
    assert f"several releases of dbt-core: {release()}, {OTHER}" in said.output
