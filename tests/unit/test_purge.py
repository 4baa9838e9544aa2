"""Removal of ended runs: by expiry and by `purge`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import redis

from producer.client import RelayClient
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from workers.contract.connection import connect
from workers.contract.errors import Category, ErrorInfo
from workers.contract.keys import SESSION, Keys, new_run_id
from workers.contract.messages import RetryPolicy, RunRequest
from workers.contract.purge import Purged, purge
from workers.contract.run_store import RunStore
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Move, StagedNode
from workers.sessions.warehouse_lock import Session, WarehouseLock

NODES: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
PASSING = ErrorInfo(
    code="connection_lost", category=Category.CONNECTION.value, error_class="DbtExecutionError",
    message="the server went away", retryable=True,
)  # fmt: skip
BROKEN = ErrorInfo(
    code="missing_column", category=Category.DATABASE.value, error_class="DbtExecutionError",
    message="no such column",
)  # fmt: skip


class ServerWorker(FakeWorker):
    """The fake worker with a real Redis server."""

    def __init__(self, url: str, **options: object) -> None:
        self._url = url
        super().__init__(NODES, **options)  # type: ignore[arg-type]

    def redis(self) -> redis.Redis:  # type: ignore[override]
        return connect(self._url)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    redis_server.flush()
    with connect(redis_server.url) as connected:
        yield connected


@pytest.fixture
def store(client: redis.Redis) -> RunStore:
    return RunStore(client)


def keyspace(client: redis.Redis) -> set[bytes]:
    return set(client.scan_iter(count=1000))


def request(**fields: object) -> RunRequest:
    given: dict[str, object] = {"args": ("build",), "cwd": "/p", "project_dir": "/p"}
    return RunRequest(run_id=new_run_id(), **{**given, **fields})  # type: ignore[arg-type]


def behaviours(
    kinds: dict[str, str], cancel: Callable[[str], object]
) -> dict[str, Callable[[Claim], ErrorInfo | None]]:
    """The result of node ``b`` of a run, by the kind of the run."""

    def b(claim: Claim) -> ErrorInfo | None:
        kind = kinds.get(claim.run_id, "good")
        if kind == "failed":
            return BROKEN
        if kind == "retried" and claim.tries == 1:
            return PASSING
        if kind == "cancelled":
            cancel(claim.run_id)
        return None

    return {"b": b}


def play(
    url: str, monkeypatch: pytest.MonkeyPatch, number: int, result_ttl: int
) -> tuple[list[str], list[str]]:
    """Execute runs of every kind, a few at once. Returns the ended and the abandoned ones."""
    kinds: dict[str, str] = {}

    def cancel(run_id: str) -> object:
        return relay.cancel(run_id)  # the client is made when the worker's server is in place

    worker = ServerWorker(url, behaviour=behaviours(kinds, cancel), threads=4)
    worker.ledger.result_ttl = result_ttl
    ended, abandoned = [], []
    with worker.running(monkeypatch):
        relay = RelayClient("redis://nowhere")
        for place in range(number):
            kind = ("good", "failed", "retried", "cancelled", "abandoned")[place % 5]
            asked = request(
                args=("build" if place % 10 else "compile", "--threads", "2"),
                retry=RetryPolicy(base_delay=0, jitter=False),
            )
            kinds[asked.run_id] = kind
            if kind == "abandoned":
                worker.ledger.submit(asked)
                worker.ledger.claim(asked.run_id, "@plan", "dead:1")
                abandoned.append(asked.run_id)
            else:
                relay.submit(asked)
                ended.append(asked.run_id)
        wait_until(lambda: set(relay.store.active_runs()) == set(abandoned), 60, "the runs to end")
        states = {run_id: relay.store.fact(run_id, "state") for run_id in ended}
    assert set(states.values()) == {"succeeded", "failed", "cancelled"}
    assert {kinds[run_id] for run_id, state in states.items() if state == "cancelled"} == {"cancelled"}
    return ended, abandoned


def test_purge_of_a_hundred_runs_leaves_no_key(
    redis_server: RedisServer, client: redis.Redis, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keyspace(client)
    ended, abandoned = play(redis_server.url, monkeypatch, 100, 3600)
    for key in keyspace(client):
        run_id = key.decode().split(":")[2] if key.startswith(b"relay:run:") else ""
        owned = run_id in abandoned or key.decode() in {"relay:active", "relay:leases"}
        assert owned or 0 < client.ttl(key) <= 3600, key
    done = purge(store, older_than=0)
    assert (done.runs, done.forced, done.live) == (sorted(ended), [], [])
    assert set(store.active_runs()) == set(abandoned)
    done = purge(store, named=abandoned, force=True)
    assert done.forced == sorted(abandoned)
    assert keyspace(client) == before


def test_keys_of_ended_runs_expire(
    redis_server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, abandoned = play(redis_server.url, monkeypatch, 10, 3600)
    for key in keyspace(client):
        if client.ttl(key) > 0:
            client.pexpire(key, 1)  # an hour later
    wait_until(
        lambda: all(
            key in {b"relay:active", b"relay:leases"} or any(run_id in key.decode() for run_id in abandoned)
            for key in keyspace(client)
        ),
        20,
        lambda: str(keyspace(client)),
    )


def ended_run(ledger: Ledger) -> str:
    asked = request(args=("compile",))
    step = ledger.submit(asked)
    claim = ledger.claim(asked.run_id, step, "w:1")
    assert isinstance(claim, Claim)
    ledger.store_artifact(asked.run_id, "manifest.json", b"x")
    ledger.finish(claim, Move(word="done", final='{"return_code":0}', final_state="succeeded"))
    return asked.run_id


def test_recent_and_active_runs_are_kept(store: RunStore, client: redis.Redis) -> None:
    ledger = Ledger(client)
    old, young = ended_run(ledger), ended_run(ledger)
    client.hset(ledger.keys.run(old), "ended", ledger.server_time() - 3600)
    going = request().run_id
    ledger.submit(RunRequest(run_id=going, args=("run",), cwd="/p", project_dir="/p"))
    done = purge(store, older_than=1800)
    assert (done.runs, done.recent) == ([old], [young])
    assert client.exists(ledger.keys.artifact(old, "manifest.json")) == 0
    assert purge(store, named=[going]).live == [going]
    assert store.active_runs() == [going]
    assert purge(store) == Purged(recent=[young])


def test_leftovers_of_dead_processes_are_removed(store: RunStore, client: redis.Redis) -> None:
    ledger = Ledger(client)
    keys, now = ledger.keys, ledger.server_time()
    client.zadd(keys.leases(), {f"{new_run_id()} model.p.a": 1})
    client.zadd(keys.watches(), {f"{new_run_id()} @plan": 1})
    client.hset(
        keys.lock("duckdb:/gone"),
        mapping={"run": new_run_id(), "fence": 1, "expires": 1, "holder": "who had it"},
    )
    client.rpush(keys.lock_waiters("duckdb:/gone"), new_run_id())
    client.rpush(keys.attempts(new_run_id()), "{}")
    client.hset(keys.workers(), "dead:1", json.dumps({"seen": now - 3600}))
    client.hset(keys.workers(), "alive:1", json.dumps({"seen": now}))
    done = purge(store)
    assert done == Purged(orphans=1, watches=2, locks=1, workers=["dead:1"])
    # a dead run's session may have been stopped with its file open
    assert client.hkeys(keys.strays()) == [b"who had it"]
    assert client.ttl(keys.strays()) > 0
    assert keyspace(client) == {keys.workers().encode(), keys.strays().encode()}


def test_lock_in_use_is_kept(client: redis.Redis, store: RunStore) -> None:
    ledger = Ledger(client)
    run_id = request().run_id
    ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
    plan = ledger.claim(run_id, "@plan", "w:1")
    assert isinstance(plan, Claim)
    ledger.stage(plan, [StagedNode("model.p.a", 0, 1, ())], roots=("model.p.a",))
    facts: dict[str, str | int | float] = {"mode": "session", "lock": "duckdb:/x"}
    assert ledger.finish(plan, Move(word="planned", facts=facts, nodes=1)) == (SESSION,)
    session = WarehouseLock(ledger).enter(run_id, "duckdb:/x", "w:1")
    assert isinstance(session, Session)
    assert purge(store, older_than=0).locks == 0
    assert ledger.beat(run_id, [session.held]) == ["ok"]
    purge(store, named=[run_id], force=True)
    assert ledger.beat(run_id, [session.held]) == ["lost"]
    assert WarehouseLock(ledger).leave(session) == ()
    assert keyspace(client) == set()


def test_forced_purge_cancels_active_runs_first(
    redis_server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RelayClient, "publish", lambda *_: None)
    relay = RelayClient(redis_server.url)
    asked = request()
    relay.submit(asked)
    seen: list[str | None] = []
    wait = relay._cancel_and_wait
    monkeypatch.setattr(
        relay, "_cancel_and_wait",
        lambda *args: (wait(*args), seen.append(relay.store.fact(asked.run_id, "stop"))),
    )  # fmt: skip
    done = relay.purge(named=[asked.run_id], force=True, wait=0.01)
    assert (seen, done.forced) == (["purged"], [asked.run_id])
    assert keyspace(client) == set()


def test_keys_of_other_namespaces_are_not_touched(client: redis.Redis) -> None:
    other = Ledger(client, keys=Keys("other"))
    run_id = ended_run(other)
    assert purge(RunStore(client, keys=Keys("relay")), older_than=0) == Purged()
    assert other.final(run_id) is not None
