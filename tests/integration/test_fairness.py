"""Fairness: many runs on few processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_invocation
from producer.session import Follower, Stack
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool
from workers.contract.settings import Settings


def submit(server: RedisServer, folder: Path, seconds: float, priority: int = 0) -> str:
    """Submit a run of the slow project on a DuckDB file of its own; the run id."""
    project = copy_project("slow", folder)
    environ = {**os.environ, "RELAY_TEST_DUCKDB": str(folder / "warehouse.duckdb")}
    follower = Follower(Stack(broker_url=server.broker_url), Settings(broker_url=server.broker_url))
    words = ["run", "--vars", f"{{seconds: {seconds}}}"]
    request, _ = follower.request(
        parse_invocation(words, environ=environ, cwd=project), cwd=project, environ=environ
    )
    return follower.client.submit(msgspec.structs.replace(request, priority=priority))


@pytest.mark.slow
def test_small_run_does_not_wait_for_the_end_of_a_large_one_on_the_only_process(
    tmp_path: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    worker_pool(n=1, env={"DBT_RELAY_SESSION_SECONDS": "2"})
    with RelayClient(redis_server.broker_url).store.client as redis_client:
        client = RelayClient(redis_server.broker_url)
        giant = submit(redis_server, tmp_path / "giant", 3)
        wait_until(lambda: client.store.fact(giant, "index") == "1", 60, "the giant to begin its first node")
        behind = submit(redis_server, tmp_path / "behind", 0, priority=9)
        small = submit(redis_server, tmp_path / "small", 0)
        assert client.result(small, timeout=60).success
        assert client.store.fact(giant, "state") == "active"
        assert redis_client.zscore(client.store.keys.active(), behind) is not None
        results = {run: client.result(run, timeout=90) for run in (giant, behind)}
    for result in results.values():
        assert result.success, result.stdout
        assert [node.status for node in result.nodes] == ["success"] * 4
        assert {len(node.attempts) for node in result.nodes} == {1}
    ended = {run: float(client.store.fact(run, "ended") or 0) for run in (giant, behind, small)}
    assert sorted(ended, key=lambda run: ended[run]) == [small, giant, behind]
