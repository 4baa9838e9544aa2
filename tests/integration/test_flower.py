"""Flower, started as its users start it, shows the tasks of a run under readable names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.flower import Flower, flower_beside
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import node, runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.results import NodeResult


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
def flower(pool: WorkerPool) -> Iterator[Flower]:
    with flower_beside(pool) as flower:
        yield flower


def tasks_of(flower: Flower, run_id: str) -> list[dict[str, Any]]:
    """The tasks of a run that has ended, after Flower has received the event of its last one."""
    wait_until(lambda: flower.finished(run_id, "relay.close"), 20, "the last task")
    return flower.tasks(run_id)


def node_tasks(tasks: list[dict[str, Any]], unique_id: str) -> list[dict[str, Any]]:
    return [
        task for task in tasks
        if task["args"].startswith(f"({unique_id!r}, ") and task["state"] in {"SUCCESS", "FAILURE"}
    ]  # fmt: skip


def shows_the_failure(task: dict[str, Any], failed: NodeResult) -> None:
    """Code, message and fix as exception; dbt's text, and no frames of Python, as traceback."""
    assert failed.error is not None
    for part in (f"{failed.error.code}: {failed.error.message}", f"Fix: {failed.error.suggested_fix}"):
        assert part.replace("'", "") in task["exception"].replace("\\'", "").replace("'", "")
    assert task["traceback"] == failed.error.detail


def test_flower_shows_each_node_of_a_duckdb_run(
    flower: Flower, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    """One process executes them all: each is a task of its own nevertheless."""
    result = runner(redis_server, project).execute_command(
        ["build", "--select", "+int_raised", "broken_macro"], stream_output=False
    )
    tasks = tasks_of(flower, result.run_id)
    assert {"relay.plan", "relay.start", "relay.close"} <= {task["name"] for task in tasks}
    shown = {each.unique_id: node_tasks(tasks, each.unique_id) for each in result.nodes}
    assert {unique_id: len(found) for unique_id, found in shown.items()} == dict.fromkeys(shown, 1)
    good, bad = node(result, "int_raised"), node(result, "broken_macro")
    [task] = shown[good.unique_id]
    assert (task["name"], task["state"]) == ("model int_raised", "SUCCESS")
    assert task["runtime"] >= good.execution_time
    [task] = shown[bad.unique_id]
    assert (task["name"], task["state"]) == ("model broken_macro", "FAILURE")
    shows_the_failure(task, bad)


@pytest.mark.postgres
def test_flower_shows_each_node_of_a_postgres_run(
    flower: Flower, project: Path, redis_server: RedisServer, database: PostgresDatabase
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    result = runner(redis_server, project, env=env).execute_command(
        ["build", "--select", "+int_raised", "broken_macro"], stream_output=False
    )
    tasks = tasks_of(flower, result.run_id)
    assert [task["state"] for task in flower.finished(result.run_id, "relay.plan")] == ["SUCCESS"]
    for each in result.nodes:
        [task] = node_tasks(tasks, each.unique_id)
        assert (task["name"], task["state"]) == (
            f"{each.resource_type} {each.name.rpartition('.')[2]}", "SUCCESS" if each.success else "FAILURE"
        )  # fmt: skip
        assert task["worker"]
        if not each.success:
            shows_the_failure(task, each)


def test_flower_shows_a_command_that_runs_whole(
    flower: Flower, project: Path, redis_server: RedisServer
) -> None:
    result = runner(redis_server, project).execute_command(["ls"], stream_output=False)
    [task] = wait_until(lambda: flower.finished(result.run_id, "relay.command"), 20, "the task")
    assert task["state"] == "SUCCESS"
    assert "@command" in task["args"]
