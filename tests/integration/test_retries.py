"""What may pass is tried again, and what cannot is not: real locks, a real server that goes away."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from producer import retry_with_backoff
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import SHORT_RETRIES, EventRecorder, duckdb_locked_elsewhere, node, runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.errors import exception_of
from workers.contract.events import Event
from workers.contract.messages import RetryPolicy
from workers.contract.results import DbtResult


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, database: PostgresDatabase) -> WorkerPool:
    return module_worker_pool(2, env=database.env, coverage=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


def test_a_duckdb_file_that_is_held_for_two_seconds_is_waited_for(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    recorder = EventRecorder()
    with duckdb_locked_elsewhere(duckdb_file) as release:
        timer = threading.Timer(2.0, release)

        def on_event(event: Event) -> None:
            recorder(event)
            if (event.node, event.state, event.attempt) == ("@start", "retrying", 1):
                timer.start()  # two seconds from when it was first wanted in vain

        result = runner(redis_server, project, retry=SHORT_RETRIES, on_event=on_event).execute_command(
            ["build", "--select", "+int_raised"], stream_output=False
        )
        timer.join()
    assert result.success, result.stdout
    tried = [attempt for attempt in result.attempts if attempt.step == "@start"]
    assert len(tried) >= 2
    assert [attempt.status for attempt in tried] == ["error"] * (len(tried) - 1) + ["success"]
    assert [attempt.number for attempt in tried] == list(range(1, len(tried) + 1))
    assert {attempt.error.code for attempt in tried[:-1] if attempt.error} == {"duckdb_file_locked"}
    assert tried[-1].finished_at - tried[0].finished_at >= 1.9
    retried = [each.event for each in recorder.received if each.event.state == "retrying"]
    assert [event.attempt for event in retried] == list(range(1, len(tried)))
    assert all(len(each.attempts) == 1 for each in result.nodes)


def test_a_command_that_runs_whole_waits_for_the_file_too(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    with duckdb_locked_elsewhere(duckdb_file) as release:

        def on_event(event: Event) -> None:
            if (event.node, event.state) == ("@command", "retrying"):
                release()

        result = runner(redis_server, project, retry=SHORT_RETRIES, on_event=on_event).execute_command(
            ["show", "--inline", "select 6 * 7 as answer"], stream_output=False
        )
    assert result.success, result.stdout
    assert "|     42 |" in result.stdout
    assert [(attempt.step, attempt.number, attempt.error is None) for attempt in result.attempts] == [
        ("@command", 1, False), ("@command", 2, True),
    ]  # fmt: skip


def test_a_duckdb_file_that_stays_held_fails_with_its_holder_named(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    policy, recorder = RetryPolicy(max_attempts=2, base_delay=0.2, jitter=False), EventRecorder()
    with duckdb_locked_elsewhere(duckdb_file):
        result = runner(redis_server, project, on_event=recorder).execute_command(
            ["run", "--select", "int_model_a"], stream_output=False, retry=policy
        )
    waits = [each.event for each in recorder.received if each.event.state == "waiting"]
    assert [(event.node, event.attempt) for event in waits] == [("@start", 1)]
    assert str(duckdb_file) in waits[0].text
    assert "tried again in 0.2 s" in waits[0].text
    assert result.stdout.count("Encountered an error") == 1  # dbt's own last word, once
    assert result.stdout.count("Concurrency:") == 1
    assert "again" not in (result.error.suggested_fix if result.error else "")
    assert (result.success, result.return_code) == (False, 2)
    assert result.error is not None
    assert (result.error.code, result.error.error_class) == ("duckdb_file_locked", "DbtLockError")
    assert result.error.retryable
    assert result.error.attempts == 2
    assert "PID" in result.error.detail


def test_a_caller_that_has_the_file_open_itself_is_told_so(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    with duckdb.connect(str(duckdb_file)):
        result = runner(redis_server, project).execute_command(
            ["run", "--select", "int_model_a"], stream_output=False, retry=RetryPolicy(max_attempts=1)
        )
    assert result.error is not None
    assert result.error.message == f"this program (PID {os.getpid()}) has {duckdb_file} open itself"
    assert result.stderr == result.error.message
    assert "connection.close()" in result.error.suggested_fix


def test_a_caller_may_try_the_whole_command_again(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    once = RetryPolicy(max_attempts=1)
    dbt = runner(redis_server, project, retry=once)
    waits: list[float] = []
    with duckdb_locked_elsewhere(duckdb_file) as release:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            release()

        result = retry_with_backoff(
            lambda: dbt.execute_command(["run", "--select", "int_model_a"], stream_output=False),
            base_delay=0.5, sleep=sleep,
        )  # fmt: skip
    assert result.success
    assert waits == [0.5]


@pytest.mark.postgres
def test_a_node_that_lost_its_server_is_tried_again(
    pool: WorkerPool,
    project: Path,
    redis_server: RedisServer,
    postgres: PostgresServer,
    database: PostgresDatabase,
) -> None:
    """Postgres is restarted while a node's query is on it; a node that had ended is not run again."""
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    recorder = EventRecorder()
    dbt = runner(redis_server, project, env=env, retry=SHORT_RETRIES, on_event=recorder)
    results: list[DbtResult] = []
    holder = database.connect()
    with contextlib.closing(holder), holder.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(42)")
        caller = threading.Thread(
            target=lambda: results.append(
                dbt.execute_command(["run", "--select", "int_model_a", "gated+"], stream_output=False)
            )
        )
        caller.start()
        waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: database.query(waiting), 30, "the model to be at the gate")
        wait_until(lambda: recorder.has("model.trial.int_model_a", "success"), 30, "the other model's end")
        postgres.restart()  # the lock is gone with its holder
    caller.join(60)
    [result] = results
    assert result.success, result.stdout
    gated = node(result, "gated")
    assert len(gated.attempts) >= 2
    first, last = gated.attempts[0], gated.attempts[-1]
    assert (first.status, last.status) == ("error", "success")
    assert first.error is not None
    assert first.error.category == "connection"
    assert first.error.retryable
    assert len(node(result, "int_model_a").attempts) == 1
    assert len(node(result, "after_gated").attempts) == 1
    assert database.query("select one from after_gated") == [(1,)]


@pytest.mark.postgres
def test_a_server_that_is_away_when_the_run_begins_is_waited_for(
    pool: WorkerPool,
    project: Path,
    redis_server: RedisServer,
    postgres: PostgresServer,
    database: PostgresDatabase,
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    postgres.stop()
    timer = threading.Timer(2.0, postgres.start)
    timer.start()
    began = time.time()
    result = runner(redis_server, project, env=env, retry=SHORT_RETRIES).execute_command(
        ["run", "--select", "int_model_a"], stream_output=False
    )
    timer.join()
    assert result.success, result.stdout
    assert time.time() - began >= 1.5
    tried = [attempt for attempt in result.attempts if attempt.step == "@start"]
    assert len(tried) >= 2
    assert {attempt.error.category for attempt in tried[:-1] if attempt.error} == {"connection"}


def test_a_compilation_error_and_a_failed_test_are_not_tried_again(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    recorder = EventRecorder()
    result = runner(redis_server, project, retry=SHORT_RETRIES, on_event=recorder).execute_command(
        ["build", "--select", "+failing", "broken_macro", "broken_column"], stream_output=False
    )
    assert result.return_code == 1
    failed = [each for each in result.nodes if each.error is not None]
    assert sorted(each.error.category for each in failed if each.error) == [
        "compilation", "data_quality", "database",
    ]  # fmt: skip
    for each in failed:
        assert each.error is not None
        assert not each.error.retryable
        assert each.error.attempts == len(each.attempts) == 1
    assert not [each for each in recorder.received if each.event.state == "retrying"]
    assert result.error is not None
    assert not exception_of(result.error).retryable
