"""What ends worker processes, or replaces them, and does not harm a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from producer.client import RelayClient
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import runner, submit
from tests.support.worker_pool import WorkerPool
from workers.contract.connection import connect
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim


@pytest.mark.slow
def test_a_run_whose_plan_kills_its_workers_is_given_up(
    tmp_path: Path, duckdb_file: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    run_id = submit(redis_server, copy_project("slow", tmp_path / "project"), ["run"])
    with connect(redis_server.url) as client:
        ledger = Ledger(client)
        for _ in range(3):  # workers that claim it and disappear
            assert isinstance(ledger.claim(run_id, "@plan", "dead:1"), Claim)
            client.zadd(ledger.keys.leases(), {f"{run_id} @plan": 1})
            assert ledger.reap(run_id, "@plan")["what"] == "lost"
    worker_pool(n=1)
    result = RelayClient(redis_server.broker_url).result(run_id, timeout=60)
    assert result.return_code == 2
    assert result.error is not None
    assert (result.error.code, result.error.node) == ("worker_lost", None)
    assert "@plan ended 3 worker processes" in result.error.message


@pytest.mark.slow
def test_a_process_that_has_grown_makes_room_for_a_fresh_one(
    tmp_path: Path, duckdb_file: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    project = copy_project("slow", tmp_path / "project")
    worker_pool(n=1, env={"DBT_RELAY_PROCESS_MEMORY": "1"})  # of 1 MB
    dbt = runner(redis_server, project)
    results = [
        dbt.execute_command(["run", "--select", "first"], dbt_vars={"seconds": 0}, stream_output=False)
        for _ in range(2)
    ]
    assert all(result.success for result in results), results[-1].stdout
    first, second = ({node.attempts[-1].worker for node in result.nodes} for result in results)
    assert len(first) == len(second) == 1  # no process is replaced during a session
    assert first != second
