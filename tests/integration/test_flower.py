"""Flower, started as its users start it, shows the tasks of a run under readable names."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.processes import end_process, free_port, tail
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import node, runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools

Tasks = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, database: PostgresDatabase) -> WorkerPool:
    return module_worker_pool(2, env=database.env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def tasks_of(pool: WorkerPool) -> Iterator[Tasks]:
    """Starts Flower beside the workers; gives the tasks of a run by its API."""
    port = free_port()
    log = pool.directory / "flower.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", "workers.app", "flower", "--address=127.0.0.1",
                f"--port={port}",
            ],
            env={**pool.env, "FLOWER_UNAUTHENTICATED_API": "true"}, cwd=pool.directory,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return json.load(answer)

    def up() -> bool:
        assert process.poll() is None, tail(log)
        try:
            return bool(get("/api/workers"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def tasks(run_id: str) -> list[dict[str, Any]]:
        return [task for task in get("/api/tasks?limit=1000").values() if run_id in str(task["args"])]

    wait_until(up, 40, lambda: f"Flower:\n{tail(log)}", interval=0.2)
    yield tasks
    end_process(process, 15, 10)


def finished(tasks: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [task for task in tasks if task["name"] == name and task["state"] in {"SUCCESS", "FAILURE"}]


def test_flower_shows_each_node_of_a_duckdb_run(
    tasks_of: Tasks, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    """One process executes them all: each is a task of its own nevertheless."""
    result = runner(redis_server, project).execute_command(
        ["build", "--select", "+int_raised", "broken_macro"], stream_output=False
    )
    tasks = wait_until(
        lambda: len(finished(t := tasks_of(result.run_id), "relay.close")) == 1 and t, 20, "the last task"
    )
    assert isinstance(tasks, list)
    assert {"relay.plan", "relay.start", "relay.node", "relay.close"} <= {task["name"] for task in tasks}
    shown = {
        each.unique_id: [task for task in finished(tasks, "relay.node") if each.unique_id in task["args"]]
        for each in result.nodes
    }
    assert {unique_id: len(found) for unique_id, found in shown.items()} == dict.fromkeys(shown, 1)
    good, bad = node(result, "int_raised"), node(result, "broken_macro")
    [task] = shown[good.unique_id]
    assert task["state"] == "SUCCESS"
    assert task["runtime"] >= good.execution_time
    [task] = shown[bad.unique_id]
    assert task["state"] == "FAILURE"
    assert "the rates are not there" in task["exception"]


@pytest.mark.postgres
def test_flower_shows_each_node_of_a_postgres_run(
    tasks_of: Tasks, project: Path, redis_server: RedisServer, database: PostgresDatabase
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    result = runner(redis_server, project, env=env).execute_command(
        ["build", "--select", "+int_raised"], stream_output=False
    )
    assert result.success, result.stdout
    tasks = wait_until(
        lambda: len(finished(t := tasks_of(result.run_id), "relay.close")) == 1 and t, 20, "the last task"
    )
    assert isinstance(tasks, list)
    assert [task["state"] for task in finished(tasks, "relay.plan")] == ["SUCCESS"]
    for each in result.nodes:
        [task] = [task for task in finished(tasks, "relay.node") if each.unique_id in task["args"]]
        assert task["state"] == "SUCCESS"
        assert task["worker"]


def test_flower_shows_a_command_that_runs_whole(
    tasks_of: Tasks, project: Path, redis_server: RedisServer
) -> None:
    result = runner(redis_server, project).execute_command(["ls"], stream_output=False)
    [task] = wait_until(lambda: finished(tasks_of(result.run_id), "relay.command"), 20, "the task")  # type: ignore[misc]
    assert task["state"] == "SUCCESS"
    assert "@command" in task["args"]
