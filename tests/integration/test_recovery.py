"""Recovery: workers die, messages are lost, and the run still ends with the right result."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from producer.cli import main as cli
from tests.support.background import SHORT_LEASES, Background, assert_all_succeeded
from tests.support.projects import ROOT, copy_project
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.connection import connect
from workers.contract.events import Event


def is_node(event: Event) -> bool:
    return not event.node.startswith("@")


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("whole_host", [False, True], ids=["child", "host"])
def test_run_survives_a_killed_worker(
    slow_project: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer, whole_host: bool
) -> None:
    pools = [worker_pool(n=1, env=SHORT_LEASES), worker_pool(n=1, env=SHORT_LEASES)]
    run = Background(slow_project, redis_server.broker_url)
    wait_until(lambda: run.has_line("working on first"), 40, "the first node to run")
    victim = run.worker_of("first")
    if whole_host:
        next(pool for pool in pools if victim in pool.children).kill()
    else:
        os.kill(victim, signal.SIGKILL)
    result = run.wait()
    assert_all_succeeded(result)
    first = next(node for node in result.nodes if node.name == "first")
    assert not first.worker.endswith(f":{victim}")
    lost = [event for event in run.events if event.state == "lost"]
    assert [event.node for event in lost] == ["model.slow.first"]
    log = (slow_project / "logs" / "dbt.log").read_text()
    # what the killed process said, then what the other one did, as plain dbt's file has it after a crash and a retry
    assert log.count("Began running node model.slow.first\n") == 2
    assert log.count("Finished running node model.slow.first\n") == 1
    assert log.count("[MainThread]: Command `dbt ") == 1


WRITES = (
    "{{ config(materialized='table', pre_hook='create table if not exists writes (n integer)',"
    " post_hook='insert into writes values (1)') }}\n{{ wait() }}\nselect 1 as id\n"
)


@pytest.mark.slow
@pytest.mark.postgres
def test_worker_paused_past_its_lease_writes_and_records_nothing(
    slow_project: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    request: pytest.FixtureRequest,
) -> None:
    """The process that had the node is stopped for longer than its lease, and continued when the run is over."""
    (slow_project / "models" / "first.sql").write_text(WRITES)
    env = {**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": "4"}
    pools = [worker_pool(n=1, env=env, coverage=True), worker_pool(n=1, env=env, coverage=True)]
    run = Background(slow_project, redis_server.broker_url)
    wait_until(lambda: run.has_line("working on first"), 40, "the first node to run")
    victim = run.worker_of("first")
    pool = next(pool for pool in pools if victim in pool.children)
    os.kill(victim, signal.SIGSTOP)
    try:
        result = run.wait(120)
        on_postgres = os.environ["RELAY_TEST_TARGET"] == "postgres"
        if on_postgres:
            database = request.getfixturevalue("postgres_database")
            assert (
                database.query("select 1 from pg_stat_activity where application_name like '%relay/%'") == []
            )
        else:
            assert victim not in pool.children  # the file's lock went with it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    if on_postgres:
        wait_until(lambda: '"reason": "lost"' in pool.log(), 60, "the stopped process to hear of it")
        rows = database.query("select n from writes")
    else:
        with duckdb.connect(os.environ["RELAY_TEST_DUCKDB"]) as connection:
            rows = connection.sql("select n from writes").fetchall()
    assert rows == [(1,)]
    assert_all_succeeded(result)
    first = next(node for node in result.nodes if node.name == "first")
    assert not first.worker.endswith(f":{victim}")


@pytest.mark.slow
def test_run_goes_on_in_another_worker_when_one_stops(
    tmp_path: Path, duckdb_file: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    project = copy_project("slow", tmp_path / "project")
    pools = [
        worker_pool(n=1, env=SHORT_LEASES, coverage=True),
        worker_pool(n=1, env=SHORT_LEASES, coverage=True),
    ]
    run = Background(project, redis_server.broker_url)
    wait_until(lambda: run.has_line("working on first"), 40, "the first node to run")
    leaving = run.worker_of("first")
    next(pool for pool in pools if leaving in pool.children).terminate()
    result = run.wait()
    assert_all_succeeded(result)
    workers = {node.name: node.worker for node in result.nodes}
    assert workers["first"].endswith(f":{leaving}")
    assert not workers["last"].endswith(f":{leaving}")
    assert all(len(node.attempts) == 1 for node in result.nodes)


@pytest.mark.slow
@pytest.mark.postgres
def test_rolling_restart_hands_nodes_back(
    slow_project: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each worker is stopped in the middle of a node that takes longer than its grace time, and started anew."""
    (slow_project / "models" / "first.sql").write_text(WRITES)
    for quick in ("left", "right"):
        (slow_project / "models" / f"{quick}.sql").write_text("select id from {{ ref('first') }}\n")
    monkeypatch.setenv("DBT_RELAY_BROKER_URL", redis_server.broker_url)
    env = {"DBT_RELAY_DRAIN_SECONDS": "0.2"}
    pools = [worker_pool(n=1, env=env, coverage=True), worker_pool(n=1, env=env, coverage=True)]
    run = Background(slow_project, redis_server.broker_url, seconds=6)
    before: list[int] = []
    for node in ("first", "last"):
        wait_until(lambda node=node: run.has_line(f"working on {node}"), 90, f"{node} to run")  # type: ignore[misc]
        before.append(run.worker_of(node))
        pool = next(pool for pool in pools if before[-1] in pool.children)
        pid = pool.pid
        assert cli.main(["drain", f"{socket.gethostname()}:{pid}"]) == 0
        told = capsys.readouterr().out
        assert f"draining, executing model.slow.{node} of 2" in told
        assert told.rstrip().endswith("drained")
        wait_until(lambda pool=pool: not pool.alive, 30, "the worker to end")  # type: ignore[misc]
        pool.start(wait=False)
    result = run.wait(180)
    assert_all_succeeded(result)
    ways = {node.name: [attempt.status for attempt in node.attempts] for node in result.nodes}
    assert ways == {
        "first": ["handed back", "success"], "left": ["success"], "right": ["success"],
        "last": ["handed back", "success"],
    }  # fmt: skip
    assert [event.node for event in run.events if event.state == "lost"] == []
    nodes = {node.name: node for node in result.nodes}
    assert not nodes["first"].worker.endswith(f":{before[0]}")
    assert not nodes["last"].worker.endswith(f":{before[1]}")
    if os.environ["RELAY_TEST_TARGET"] == "duckdb":
        with duckdb.connect(os.environ["RELAY_TEST_DUCKDB"]) as connection:
            assert connection.sql("select n from writes").fetchall() == [(1,)]


@pytest.mark.slow
def test_worker_ends_although_a_process_cannot_be_interrupted(worker_pool: WorkerPools) -> None:
    pool = worker_pool(n=2, env={"DBT_RELAY_DRAIN_SECONDS": "0.1"}, coverage=True)
    os.kill(pool.children[0], signal.SIGSTOP)
    assert pool.terminate(120) == 0
    assert "killing a process that does not hand its step back" in pool.log()


@pytest.mark.slow
def test_lost_message_is_sent_again(
    tmp_path: Path, duckdb_file: Path, worker_pool: WorkerPools, redis_server: RedisServer
) -> None:
    project = copy_project("slow", tmp_path / "project")
    with connect(redis_server.url) as client:
        run = Background(project, redis_server.broker_url, seconds=0.1)
        wait_until(lambda: client.llen("dbt-relay") == 1, 20, "the first message")
        client.delete("dbt-relay")
        worker_pool(n=1, env=SHORT_LEASES)
        assert_all_succeeded(run.wait())


@pytest.mark.slow
def test_node_that_kills_its_worker_fails_after_three_losses(
    tmp_path: Path, duckdb_file: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    project = copy_project("slow", tmp_path / "project")
    (project / "models" / "left.py").write_text(
        "import os, signal\n\n\n"
        "def model(dbt, session):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return dbt.ref('first')\n"
    )
    (project / "models" / "left.sql").unlink()
    # the main process requeues the steps of a dead child at once: no lease has to run out
    worker_pool(n=2, env={"DBT_RELAY_LEASE_SECONDS": "300"}, coverage=True)
    result = Background(project, redis_server.broker_url, seconds=0.1).wait(90)
    statuses = {node.name: node.status for node in result.nodes}
    assert statuses == {"first": "success", "left": "error", "right": "success", "last": "skipped"}
    error = next(node.error for node in result.nodes if node.name == "left")
    assert error is not None
    assert error.code == "worker_lost"
    assert "ended 3 worker processes" in error.message
    assert re.search(
        r"SIGKILL; it was seen to use \d+ MB of the [\d.]+ GB that its worker may use", error.message
    )
    assert "memory_limit" in error.suggested_fix
    assert "DBT_RELAY_MAX_LOSSES" in error.suggested_fix
    assert result.return_code == 1


@pytest.mark.slow
def test_wrong_worker_clock_and_nodes_longer_than_a_lease_lose_no_lease(
    tmp_path: Path, duckdb_file: Path, worker_pool: WorkerPools, redis_server: RedisServer
) -> None:
    """Leases go by Redis' clock, and are renewed while a node holds Python's lock as while it runs SQL."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n_true = time.time\ntime.time = lambda: _true() + 3600\n"
    )
    project = copy_project("slow", tmp_path / "project")
    (project / "models" / "left.py").write_text(
        "import time\n\n\n"
        "def model(dbt, session):\n"
        "    until = time.monotonic() + 6\n"
        "    while time.monotonic() < until:\n"
        "        sum(range(10000))\n"
        "    return dbt.ref('first')\n"
    )
    (project / "models" / "left.sql").unlink()
    ahead = {**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": "3", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    worker_pool(n=1, env=ahead)
    run = Background(project, redis_server.broker_url, seconds=0.5)
    result = run.wait(90)
    assert_all_succeeded(result)
    assert [
        event.node for event in run.events if event.state in {"lost", "retrying"} and is_node(event)
    ] == []
    for node in result.nodes:
        assert [attempt.number for attempt in node.attempts] == [1]
        assert node.started_at > time.time() + 3000, "its clock is an hour ahead"
        assert 0 <= node.finished_at - node.started_at < 80
        assert 0 <= node.execution_time < 80
    assert result.execution_time < 90
