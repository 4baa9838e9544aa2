"""Stopping runs: by a client, by a deadline, by Ctrl-C of the waiting caller; and nodes past their time limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from producer.client import RelayClient
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.processes import end_process
from tests.support.projects import ROOT, copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Gate, node, runner, submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.errors import DbtCancelledError, DbtTimeoutError, exception_of
from workers.contract.events import Event
from workers.contract.messages import Limits

LEASE = 6.0
"""Seconds. Leases are renewed every second all the same, which is how a worker learns of a cancelled run."""

SLEEPING = (
    "select 1 from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid() "
    "and state = 'active'"
)
ENDLESS = "select tablename from pg_tables where tablename like 'endless%'"

GREEDY = """
import re

def model(dbt, session):
    re.match("(a+)+$", "a" * 60 + "b")
    return None
"""
"""Keeps the GIL."""

OF_THEIR_OWN = """
models:
  - name: greedy
    config: {meta: {dbt_relay: {soft_time_limit: 0, time_limit: 5}}}
  - name: other
    config: {meta: {dbt_relay: {soft_time_limit: 0, time_limit: 0}}}
"""


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, database: PostgresDatabase) -> WorkerPool:
    return module_worker_pool(2, env={**database.env, "DBT_RELAY_LEASE_SECONDS": str(LEASE)}, coverage=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def project_of_limits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trial project with a model that cannot be interrupted."""
    project = copy_project("trial", tmp_path_factory.mktemp("limits"))
    slow = project / "models" / "slow"
    (slow / "greedy.py").write_text(GREEDY)
    (slow / "after_greedy.sql").write_text("select * from {{ ref('greedy') }}")
    (slow / "other.sql").write_text("select 1 as one")
    (slow / "limits.yml").write_text(OF_THEIR_OWN)
    return project


@pytest.fixture
def relay(redis_server: RedisServer) -> RelayClient:
    return RelayClient(redis_server.broker_url)


def wait_for_node(relay: RelayClient, run_id: str, unique_id: str) -> None:
    for event in relay.watch(run_id, timeout=60):
        if (event.node, event.state) == (unique_id, "running"):
            return
    pytest.fail(f"{unique_id} never ran")


@pytest.mark.parametrize("by", ["a client", "its deadline"])
def test_cancelled_run_stops_its_query_and_keeps_finished_nodes(
    pool: WorkerPool,
    project: Path,
    redis_server: RedisServer,
    relay: RelayClient,
    duckdb_file: Path,
    by: str,
) -> None:
    with duckdb.connect(str(duckdb_file)) as connection:
        connection.sql("create table endless as select 42 as total")
    run_id = submit(
        redis_server, project, ["run", "--select", "int_model_a", "endless+"], limits=Limits(deadline=3600)
    )
    wait_for_node(relay, run_id, "model.trial.endless")
    asked = time.monotonic()
    if by == "a client":
        assert relay.cancel(run_id, "not needed any more")
        states = relay.store.client.hgetall(relay.store.keys.states(run_id))
        assert states[b"model.trial.after_endless"] == b"done"  # at once
    else:
        keys = relay.store.keys
        assert relay.store.client.zadd(keys.leases(), {f"{run_id} @deadline": 1}, xx=True, ch=True)
    result = relay.result(run_id, timeout=30)
    assert time.monotonic() - asked < 20  # the model itself sleeps for much longer
    assert relay.store.fact(run_id, "state") == "cancelled"
    assert (result.success, result.return_code) == (False, 1)
    assert result.error is not None
    if by == "a client":
        assert isinstance(exception_of(result.error), DbtCancelledError)
        assert "not needed any more" in result.error.message
    else:
        assert isinstance(exception_of(result.error), DbtTimeoutError)
        assert (
            "its deadline of 3600 s has passed; 1 of 3 nodes had finished, 2 had not" in result.error.message
        )
    statuses = {each.name: each.status for each in result.nodes}
    assert statuses["int_model_a"] == "success"
    assert "success" not in {statuses.get("endless"), statuses.get("after_endless")}
    assert result.run_results is not None
    ran = {each["unique_id"]: each["status"] for each in result.run_results["results"]}
    assert ran["model.trial.int_model_a"] == "success"
    with duckdb.connect(str(duckdb_file)) as connection:  # no process has the file open
        assert connection.sql("select simulation_year from int_model_a").fetchall() == [(2025,)]
        assert connection.sql("select total from endless").fetchall() == [(42,)]  # nothing is half made
        tables = {name for (name,) in connection.sql("select table_name from duckdb_tables").fetchall()}
        assert tables == {"int_model_a", "endless"}


@pytest.mark.postgres
def test_cancelled_run_stops_its_query_on_the_server(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, database: PostgresDatabase
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    database.query("create table if not exists endless as select 42 as total")
    args = ["run", "--threads", "1", "--select", "endless+", "int_model_b+"]
    run_id = submit(redis_server, project, args, env=env)
    wait_until(lambda: database.query(SLEEPING), 60, "the query to run")
    states = relay.store.keys.states(run_id)
    wait_until(
        lambda: relay.store.client.hget(states, "model.trial.int_model_b") == b"ready", 30, "the other"
    )
    assert relay.cancel(run_id)
    waiting = {step for step, state in relay.store.client.hgetall(states).items() if state != b"done"}
    assert waiting == {b"model.trial.endless"}  # what has not begun never will, from this moment on
    wait_until(lambda: not database.query(SLEEPING), 20, "the query to be gone")
    result = relay.result(run_id, timeout=30)
    assert relay.store.fact(run_id, "state") == "cancelled"
    assert result.error is not None
    assert result.error.category == "cancelled"
    assert result.run_results is not None
    ran = {each["unique_id"]: each["status"] for each in result.run_results["results"]}
    assert set(ran.values()) == {"skipped"}
    assert database.query(ENDLESS) == [("endless",)]  # nothing is half made
    assert database.query("select total from endless") == [(42,)]


def test_run_that_no_worker_has_claimed_is_cancelled(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, tmp_path: Path
) -> None:
    gates = [Gate(tmp_path / f"gate{n}") for n in range(2)]
    blockers = [
        submit(redis_server, project, ["run", "--select", "gated", "--vars", f"{{gate: {gate.path}}}"],
               env={"RELAY_TEST_DUCKDB": f"{gate.path}.duckdb"})
        for gate in gates
    ]  # fmt: skip
    for blocker in blockers:
        wait_for_node(relay, blocker, "model.trial.gated")
    waiting = submit(redis_server, project, ["run", "--select", "int_model_a"])
    assert relay.cancel(waiting)
    for gate in gates:
        gate.open()
    result = relay.result(waiting, timeout=30)
    assert result.error is not None
    assert result.error.category == "cancelled"
    assert result.nodes == ()
    for blocker in blockers:
        relay.result(blocker, timeout=30)


def test_ended_run_cannot_be_cancelled(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, duckdb_file: Path
) -> None:
    result = runner(redis_server, project).execute_command(["ls"], stream_output=False)
    assert not relay.cancel(result.run_id)
    assert relay.result(result.run_id).success


def test_ctrl_c_cancels_the_run_that_a_script_waits_for(
    pool: WorkerPool,
    project: Path,
    redis_server: RedisServer,
    relay: RelayClient,
    duckdb_file: Path,
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from producer import DbtRunner\n"
        f"DbtRunner({str(project)!r}).execute_command(['run', '--select', 'endless'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**pool.env, "RELAY_TEST_DUCKDB": str(duckdb_file)}, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if b"START sql table model main.endless" in line:
                break
        run_id = relay.store.active_runs()[-1]
        wait_for_node(relay, run_id, "model.trial.endless")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        end_process(process, signal.SIGKILL, 5)
    assert process.returncode not in {0, None}
    assert f"cancelling run {run_id}".encode() in stderr
    assert relay.store.fact(run_id, "state") == "cancelled"
    with duckdb.connect(str(duckdb_file)) as connection:
        assert connection.sql("select 1").fetchall() == [(1,)]


def test_exception_in_the_caller_stops_the_query_of_its_run(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, duckdb_file: Path
) -> None:
    """The exception comes while the query runs and nothing is published, as Celery's soft time limit does."""

    class OutOfTimeError(Exception):
        pass

    def out_of_time(*_: object) -> None:
        raise OutOfTimeError

    def on_event(event: Event) -> None:
        runs.append(event.run_id)
        if (event.node, event.state) == ("model.trial.endless", "running"):
            signal.setitimer(signal.ITIMER_REAL, 0.2)

    runs: list[str] = []
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        with pytest.raises(OutOfTimeError):
            runner(redis_server, project, on_event=on_event).execute_command(
                ["run", "--select", "endless"], stream_output=False
            )
    finally:
        signal.signal(signal.SIGALRM, before)
    result = relay.result(runs[0], timeout=30)
    assert relay.store.fact(runs[0], "state") == "cancelled"
    assert result.error is not None
    assert "its caller stopped with OutOfTimeError" in result.error.message
    with duckdb.connect(str(duckdb_file)) as connection:
        assert connection.sql("select 1").fetchall() == [(1,)]


def test_second_ctrl_c_returns_without_waiting_for_the_run(
    project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    alone = {"DBT_RELAY_NAMESPACE": "alone", "DBT_RELAY_QUEUE": "alone"}  # no worker ends it in between
    process = subprocess.Popen(
        [sys.executable, "-m", "producer", "run", "--select", "int_model_a"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=project,
        env={**os.environ, **alone, "PYTHONPATH": str(ROOT), "DBT_RELAY_BROKER_URL": redis_server.broker_url},
    )  # fmt: skip
    there = RelayClient(redis_server.broker_url, namespace="alone")
    assert process.stderr is not None
    try:
        (run_id,) = wait_until(there.store.active_runs, 60, "the run to be submitted")
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith(f"cancelling run {run_id}".encode())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        end_process(process, signal.SIGKILL, 5)
    assert process.returncode == 130, stderr
    assert f"stopped waiting for run {run_id}, which is being cancelled" in stderr.decode()
    assert there.store.fact(run_id, "state") == "stopping"


def test_node_past_its_limit_fails_and_others_succeed(
    pool: WorkerPool, project_of_limits: Path, redis_server: RedisServer, relay: RelayClient,
    duckdb_file: Path,
) -> None:  # fmt: skip
    result = runner(redis_server, project_of_limits, threads=1).execute_command(
        ["run", "--select", "endless+", "greedy+", "other"], stream_output=False,
        limits=Limits(soft_time_limit=1),
    )  # fmt: skip
    assert result.return_code == 1
    assert {each.name: each.status for each in result.nodes} == {
        "endless": "error", "after_endless": "skipped", "greedy": "error", "after_greedy": "skipped",
        "other": "success",
    }  # fmt: skip
    for name, limit in (("endless", "soft time limit of 1 s"), ("greedy", "time limit of 5 s")):
        error = node(result, name).error
        assert error is not None
        assert isinstance(exception_of(error), DbtTimeoutError)
        assert error.code == "time_limit"
        assert f": its {limit} has passed: it ran for " in error.message
        assert f"its {limit} has passed" in str(node(result, name).message)
        assert len(node(result, name).attempts) == 1  # and never again
    assert "ERROR creating sql table model main.endless" in result.stdout  # dbt let it fail
    assert not any(event.state == "lost" for event in relay.watch(result.run_id))
    killed = int(node(result, "greedy").worker.rpartition(":")[2])
    wait_until(lambda: len(pool.children) == 2 and killed not in pool.children, 30, "a new process")
    assert node(result, "other").worker != node(result, "greedy").worker


@pytest.mark.postgres
def test_node_past_its_limit_stops_its_query_on_the_server(
    pool: WorkerPool, project: Path, redis_server: RedisServer, database: PostgresDatabase
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    database.query("create table if not exists endless as select 42 as total")
    result = runner(redis_server, project, env=env, limits=Limits(time_limit=1)).execute_command(
        ["run", "--select", "endless"], stream_output=False
    )
    error = node(result, "endless").error
    assert error is not None
    assert error.code == "time_limit"
    wait_until(lambda: not database.query(SLEEPING), 20, "the query to be gone")
    assert database.query(ENDLESS) == [("endless",)]
    assert database.query("select total from endless") == [(42,)]
