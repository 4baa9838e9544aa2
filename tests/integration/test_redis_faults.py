"""Redis is full, slow, away for a while, or cuts connections: the run ends right all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.client import RelayClient
from tests.support.background import QUICK, Background, assert_all_right
from tests.support.postgres_server import PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.errors import BrokerUnavailableError

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    own = RedisServer(tcp=True)
    own.start()
    yield own
    own.close()


@pytest.fixture(scope="module")
def pool(server: RedisServer, postgres: PostgresServer) -> Iterator[WorkerPool]:
    secret = {"DBT_ENV_SECRET_PG_PASSWORD": postgres.password}  # a caller never sends it
    with WorkerPools.on(server) as pools:
        yield pools(2, env={**QUICK, **secret}, measured=True)


@pytest.fixture(params=["duckdb", "postgres"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The slow project, executed in a session or node by node."""
    monkeypatch.setenv("RELAY_TEST_TARGET", request.param)
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
    else:
        monkeypatch.setenv("RELAY_TEST_DUCKDB", str(tmp_path / "slow.duckdb"))
    return copy_project("slow", tmp_path / "project")


def assert_undisturbed(run: Background) -> None:
    """Every node succeeded, was executed once, and said what it had to say once."""
    result = run.wait(90)
    assert_all_right(result)
    assert {node.name: len(node.attempts) for node in result.nodes} == dict.fromkeys(
        ("first", "left", "right", "last"), 1
    )
    for name in ("first", "left", "right", "last"):
        assert result.stdout.count(f"working on {name}") == 1
    assert "PASS=4" in result.stdout
    assert [event for event in run.events if event.state == "lost"] == []


def test_a_full_server_loses_nothing(project: Path, server: RedisServer, pool: WorkerPool) -> None:
    run = Background(project, server.broker_url, seconds=1)
    wait_until(lambda: run.said("working on first"), 60, "the first node to run")
    known = RelayClient(server.broker_url).store.active_runs()
    with server.client() as client:
        client.config_set("maxmemory", "1")  # byte
        try:
            with pytest.raises(BrokerUnavailableError) as refused:
                submit(server, project, ["run"])
            seen = float(client.time()[0])
            wait_until(lambda: RelayClient(server.broker_url).workers()[0].seen > seen + 2, 30, "two hellos")
            assert client.llen("dbt-relay") == 0
        finally:
            client.config_set("maxmemory", "0")
    assert refused.value.info is not None
    assert refused.value.info.code == "broker_full"
    assert "nothing was queued" in str(refused.value)
    assert "purge" in refused.value.suggested_fix
    assert RelayClient(server.broker_url).store.active_runs() == known
    assert_undisturbed(run)
    assert pool.alive
