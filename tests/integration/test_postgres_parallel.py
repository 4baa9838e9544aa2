"""Runs on Postgres with two worker processes: truly in parallel, in dependency order, each node once; and two
runs of the same models, which never write one relation at the same time."""

from __future__ import annotations

import contextlib
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
from tests.support.runs import EventRecorder, client, node, runner, submit
from tests.support.waiting import wait_until
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
def recorder() -> EventRecorder:
    return EventRecorder()


@pytest.fixture(scope="module")
def result(
    pool: WorkerPool,
    project: Path,
    database: PostgresDatabase,
    redis_server: RedisServer,
    recorder: EventRecorder,
) -> DbtResult:
    """The demonstration without its tests: seeds, models and a snapshot, about 40 nodes."""
    env = {**database.env, "DBT_TARGET": "postgres"}
    return runner(redis_server, project, env=env, on_event=recorder).execute_command(
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


def test_each_node_ran_exactly_once(result: DbtResult, recorder: EventRecorder) -> None:
    nodes = nodes_of(result)
    assert all(len(node.attempts) == 1 for node in nodes)
    started = Counter(each.event.node for each in recorder.received if each.event.state == "running")
    assert {step: times for step, times in started.items() if times != 1} == {}
    assert {node.unique_id for node in nodes} <= started.keys()


def test_hooks_ran_once(result: DbtResult, database: PostgresDatabase) -> None:
    assert result.success
    [(rows,)] = database.query("select count(*) from workforce_simulation.simulation_run_log")
    assert rows == 1


def test_the_data_are_dbts(result: DbtResult, database: PostgresDatabase) -> None:
    [(headcount,)] = database.query("select count(*) from workforce_simulation.fct_workforce_snapshot")
    assert headcount > 2000


def test_two_runs_of_one_model_write_it_one_after_the_other(
    pool: WorkerPool, redis_server: RedisServer, database: PostgresDatabase, tmp_path: Path
) -> None:
    """The first is at its gate; of the others one is cancelled, one refuses to wait, and one is called."""
    gated, relay = "model.trial.gated", client(redis_server)
    trial = copy_project("trial", tmp_path)
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}

    def begin() -> str:
        return submit(redis_server, trial, ["run", "--select", "gated+"], env=env)

    def waits_for(run_id: str, writer: str) -> None:
        for event in relay.watch(run_id, timeout=60):
            if (event.node, event.state) == (gated, "waiting"):
                assert event.text == writer
                return
        pytest.fail(f"{run_id} does not wait")

    with contextlib.closing(database.connect()) as keeper, keeper.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(42)")
        first = begin()
        at_gate = "select 1 from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: database.query(at_gate), 60, lambda: f"the first to be at its gate:\n{pool.log()}")
        second, cancelled, refusing = begin(), begin(), begin()
        for run_id in (second, cancelled, refusing):
            waits_for(run_id, first)
        assert relay.cancel(cancelled)
        assert relay.result(cancelled, timeout=60).error.code == "cancelled"  # type: ignore[union-attr]
        relay.store.client.hset(relay.store.keys.run(refusing), "relation_locks", "refuse")
        relay.publish(refusing, (gated,))
        refused = node(relay.result(refusing, timeout=60), "gated").error
        assert refused is not None
        assert (refused.code, refused.error_class) == ("relation_busy", "DbtLockError")
        assert first in refused.message
        assert {relay.store.fact(run_id, "state") for run_id in (first, second)} == {"active"}
        assert len(database.query(at_gate)) == 1
        cursor.execute("select pg_advisory_unlock(42)")
    results = [relay.result(run_id, timeout=60) for run_id in (first, second)]
    for result in results:
        assert result.success, result.stdout
        assert [len(each.attempts) for each in result.nodes] == [1, 1]
    assert node(results[0], "gated").finished_at <= node(results[1], "gated").started_at
    left = {key.decode() for key in relay.store.client.scan_iter(relay.store.keys.relation("*"))}
    assert all(key.endswith(":writer") for key in left), left
