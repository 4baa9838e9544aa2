"""A run on Postgres with two worker processes: truly in parallel, in dependency order, each node once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Ear, runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.results import DbtResult, NodeResult

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, database: PostgresDatabase) -> WorkerPool:
    return module_worker_pool(2, env=database.env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("demo", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def ear() -> Ear:
    return Ear()


@pytest.fixture(scope="module")
def result(
    pool: WorkerPool, project: Path, database: PostgresDatabase, redis_server: RedisServer, ear: Ear
) -> DbtResult:
    """The demonstration without its tests: seeds, models and a snapshot, about 40 nodes."""
    env = {**database.env, "DBT_TARGET": "postgres"}
    return runner(redis_server, project, env=env, on_event=ear).execute_command(
        ["build", "--exclude-resource-type", "test", "--exclude-resource-type", "unit_test"],
        simulation_year=2025, stream_output=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def manifest(result: DbtResult, project: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((project / "target" / "manifest.json").read_text())
    return parsed


def nodes_of(result: DbtResult) -> list[NodeResult]:
    """Its nodes, without the hooks that dbt lists among them."""
    return [node for node in result.nodes if node.resource_type != "operation"]


def test_the_run_succeeds(result: DbtResult) -> None:
    assert result.success, result.stdout[-3000:]
    assert 35 <= len(nodes_of(result)) <= 60
    assert {node.status for node in result.nodes} <= {"success", "no-op"}  # an exposure is a no-op


def test_nodes_overlap_in_time_on_two_processes(result: DbtResult) -> None:
    nodes = nodes_of(result)
    assert len({node.worker for node in nodes}) == 2
    overlapping = [
        (one.name, other.name)
        for one, other in combinations(nodes, 2)
        if one.worker != other.worker
        and one.started_at < other.finished_at
        and other.started_at < one.finished_at
    ]
    assert overlapping


def test_no_node_starts_before_its_parents_ended(result: DbtResult, manifest: dict[str, Any]) -> None:
    by_id = {node.unique_id: node for node in nodes_of(result)}
    edges = [
        (by_id[parent], node)
        for node in nodes_of(result)
        for parent in manifest["parent_map"][node.unique_id]
        if parent in by_id
    ]
    assert len(edges) > len(by_id) / 2
    early = [(parent.name, node.name) for parent, node in edges if node.started_at < parent.finished_at]
    assert not early


def test_each_node_ran_exactly_once(result: DbtResult, ear: Ear) -> None:
    nodes = nodes_of(result)
    assert all(len(node.attempts) == 1 for node in nodes)
    started = Counter(each.event.node for each in ear.heard if each.event.state == "running")
    assert {step: times for step, times in started.items() if times != 1} == {}
    assert {node.unique_id for node in nodes} <= started.keys()


def test_hooks_ran_once(result: DbtResult, database: PostgresDatabase) -> None:
    assert result.success
    [(rows,)] = database.query("select count(*) from workforce_simulation.simulation_run_log")
    assert rows == 1


def test_the_data_are_dbts(result: DbtResult, database: PostgresDatabase) -> None:
    [(headcount,)] = database.query("select count(*) from workforce_simulation.fct_workforce_snapshot")
    assert headcount > 2000
