"""Redis is full, slow, away for a while, or cuts connections: the run ends right all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from producer.client import RelayClient
from tests.support.background import SHORT_LEASES, Background, assert_all_succeeded
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.connection import connect
from workers.contract.errors import BrokerUnavailableError
from workers.contract.events import STATE
from workers.contract.keys import Keys, new_run_id
from workers.contract.messages import RunRequest
from workers.ledger.ledger import FULL, Ledger
from workers.ledger.records import Claim, Move, Refusal, StagedNode
from workers.sessions.warehouse_lock import Session, WarehouseLock

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
        yield pools(2, env={**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": "3", **secret}, coverage=True)


def assert_undisturbed(run: Background) -> None:
    """Every node succeeded, was executed once, and said what it had to say once."""
    result = run.wait(90)
    assert_all_succeeded(result)
    for name in ("first", "left", "right", "last"):
        assert result.stdout.count(f"working on {name}") == 1
    assert "PASS=4" in result.stdout


def test_a_full_server_loses_nothing(slow_project: Path, server: RedisServer, pool: WorkerPool) -> None:
    run = Background(slow_project, server.broker_url, seconds=1)
    wait_until(lambda: run.has_line("working on first"), 60, "the first node to run")
    known = RelayClient(server.broker_url).store.active_runs()
    with server.client() as client:
        client.config_set("maxmemory", "1")  # byte
        try:
            with pytest.raises(BrokerUnavailableError) as refused:
                submit(server, slow_project, ["run"])
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


def test_dropped_connections_a_slow_server_and_messages_twice_in_the_wrong_order(
    tmp_path: Path, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, server: RedisServer,
    pool: WorkerPool,
) -> None:  # fmt: skip
    monkeypatch.setenv("RELAY_TEST_TARGET", "postgres")
    run = Background(copy_project("slow", tmp_path / "project"), server.broker_url, seconds=1)
    wait_until(lambda: run.has_line("working on first"), 60, "the first node to run")
    with server.client() as client:
        for _ in range(3):  # all connections: of workers, their main process, the producer
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)
            wait_until(lambda: client.client_list(_type="normal")[1:], 30, "a client to connect again")
        client.client_pause(2000, all=True)  # longer than a beat, and than a third of a lease
        wait_until(lambda: run.has_line("working on left"), 60, "the next nodes to run")
        [run_id] = RelayClient(server.broker_url).store.active_runs()
        steps = ["@close", "model.slow.last", "@start", "model.slow.first", "@plan", "@session"]
        RelayClient(server.broker_url).publish(run_id, [*steps, *steps])
    result = run.wait(90)
    assert_all_succeeded(result)
    assert "PASS=4" in result.stdout
    assert pool.alive


def test_a_worker_hears_again_however_its_connections_are_reset(
    server: RedisServer, pool: WorkerPool
) -> None:
    relay, run_id = RelayClient(server.broker_url), new_run_id()
    with server.client() as client:
        for round_number in range(5):
            for kind in ("pubsub", "normal") if round_number % 2 else ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
            relay.publish(run_id, ["model.slow.first"])  # of no run: it is taken, and refused
            wait_until(lambda: client.llen("dbt-relay") == 0, 20, "the worker to take its message")
    assert pool.alive


def test_a_server_that_is_down_for_longer_than_a_lease(
    tmp_path: Path,
    duckdb_file: Path,
    make_redis: Callable[..., RedisServer],
    worker_pool: WorkerPools,
) -> None:
    """No other worker can claim the node meanwhile: it continues, and is not executed again."""
    project = copy_project("slow", tmp_path / "project")
    own = make_redis(appendfsync="always")
    worker_pool(1, server=own, env={**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": "3"})
    run = Background(project, own.broker_url, seconds=7, args=("run", "--select", "first"))
    wait_until(lambda: run.has_line("working on first"), 60, "the first node to run")
    own.kill()
    time.sleep(4)  # of a lease of three seconds
    own.start()
    result = run.wait(90)
    assert result.success, result.stdout
    assert result.stdout.count("working on first") == 1
    assert result.nodes[0].attempts[-1].number == 1


def test_a_server_that_cannot_save_and_refuses_every_write_for_longer_than_a_lease(
    tmp_path: Path, duckdb_file: Path, make_redis: Callable[..., RedisServer], worker_pool: WorkerPools
) -> None:
    """As if it were down: no other worker can claim the node meanwhile, and it is executed once."""
    project = copy_project("slow", tmp_path / "project")
    own = make_redis(save="3600 1", dbfilename="saved.rdb")
    in_the_way = own.directory / "saved.rdb"
    pool = worker_pool(1, server=own, env={**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": "3"})
    run = Background(project, own.broker_url, seconds=7, args=("run", "--select", "first"))
    wait_until(lambda: run.has_line("working on first"), 60, "the first node to run")
    with own.client() as client:

        def refuses() -> bool:
            try:
                client.delete("anything")
            except redis.ResponseError as error:
                return str(error).startswith("MISCONF")
            return False

        def save() -> bool:
            with contextlib.suppress(redis.ResponseError):  # one is under way
                client.bgsave()
            return refuses()

        in_the_way.mkdir()
        wait_until(save, 20, "a save to fail")
        with pytest.raises(BrokerUnavailableError) as refused:
            RelayClient(own.broker_url, patience=0).submit(request(new_run_id()))
        time.sleep(4)  # of a lease of three seconds
        in_the_way.rmdir()
        wait_until(lambda: not save(), 20, "a save to succeed")
    result = run.wait(90)
    assert result.success, result.stdout
    assert result.stdout.count("working on first") == 1
    assert result.nodes[0].attempts[-1].number == 1
    assert refused.value.info is not None
    assert refused.value.info.code == "broker_refuses_writes"
    assert "nothing was queued" in str(refused.value)
    assert pool.alive


def test_a_server_that_does_not_answer_for_longer_than_a_lease(
    tmp_path: Path, duckdb_file: Path, server: RedisServer, pool: WorkerPool
) -> None:
    """Another worker may have claimed the node by then: the worker interrupts it, and hands it back."""
    project = copy_project("slow", tmp_path / "project")
    relay = RelayClient(server.broker_url)
    run = Background(project, server.broker_url, seconds=100, args=("run", "--select", "first"))
    wait_until(lambda: run.has_line("working on first"), 60, "the first node to run")
    [run_id] = relay.store.active_runs()

    def stopped() -> bool:
        return any("interrupting" in line and run_id in line for line in pool.log().splitlines())

    os.kill(server.pid, signal.SIGSTOP)
    try:
        wait_until(stopped, 60, "the worker to stop its node")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: sum("working on first" in event.text for event in run.events) == 2, 60, "another try")
    states = [event.state for event in run.events if event.kind == STATE and event.node == "model.slow.first"]
    assert states in (["running", "retrying", "running"], ["running", "lost", "running"])
    relay.cancel(run_id)
    assert run.wait().error is not None


KEYS = Keys("full")
RUN = "20250101T000000-0123456789ab"


def request(run_id: str) -> RunRequest:
    return RunRequest(run_id=run_id, args=("run",), command="run", cwd="/", project_dir="/")


def test_a_full_server_lets_work_end_and_lets_none_begin(server: RedisServer) -> None:
    with connect(server.url) as client:
        ledger = Ledger(client, keys=KEYS)
        other = RUN[:-1] + "c"
        for run_id in (RUN, other):
            ledger.submit(request(run_id))
        claim = ledger.claim(RUN, "@plan", "w:1")
        assert isinstance(claim, Claim)
        nodes = [StagedNode("model.p.a", 0, 1, ()), StagedNode("model.p.b", 0, 1, ())]
        ledger.stage(claim, nodes, roots=("model.p.a", "model.p.b"))
        facts: dict[str, str | int | float] = {"mode": "session", "lock": "duckdb:/x", "parallel": 2}
        ledger.finish(claim, Move(word="planned", nodes=2, facts=facts))
        locks = WarehouseLock(ledger)
        session = locks.enter(RUN, "duckdb:/x", "w:1")
        assert isinstance(session, Session)

        def take() -> Claim | Refusal:
            return ledger.claim(RUN, "", "w:1", session=session.fence)

        start = take()
        assert isinstance(start, Claim)
        client.config_set("maxmemory", "1")
        try:
            assert ledger.beat(RUN, [(start.step, start.fence), session.held]) == ["ok", "ok"]
            ledger.finish(start, Move(word="success"), result=b"{}")
            assert take() == Refusal(FULL)
            assert ledger.claim(other, "@plan", "w:2") == Refusal(FULL)
            with pytest.raises(redis.OutOfMemoryError):
                ledger.submit(request(RUN[:-1] + "d"))
            assert sorted(ledger.active_runs()) == [RUN, other]
            ledger.count_rejected("a reason")
            assert ledger.cancel(other)[0] == "active"
            assert locks.leave(session) == ("@session",)
            assert locks.enter(RUN, "duckdb:/x", "w:1") == FULL
        finally:
            client.config_set("maxmemory", "0")
        again = locks.enter(RUN, "duckdb:/x", "w:1")
        assert isinstance(again, Session)
        session = again
        node = take()
        assert isinstance(node, Claim)
        client.config_set("maxmemory", "1")
        try:
            ledger.give_back(node, "retry")
        finally:
            client.config_set("maxmemory", "0")
        assert ledger.reap(RUN, node.step, 1)["what"] == "late"  # seen a long time ago
        for key in client.scan_iter("full:*"):
            client.delete(key)
