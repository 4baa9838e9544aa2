"""Values in Redis that another program wrote: readers ignore them, and `dbt-relay purge` removes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.cli.known_runs import find_run
from producer.cli.main import main
from producer.client import UNREADABLE, RelayClient
from tests.support.redis_server import RedisServer
from tests.support.runs import client, runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.connection import connect
from workers.contract.errors import InvalidMessageError
from workers.contract.keys import Keys, new_run_id
from workers.contract.messages import RunRequest, encode_request
from workers.ledger.ledger import Ledger
from workers.sessions.stale_lock_holders import StaleLockHolders
from workers.supervision.reaper import Reaper

KEYS = Keys("relay")
JUNK: tuple[bytes, ...] = (
    b"junk",
    b"\xff\xfe\x00",
    b"{}",
    b"[]",
    b"null",
    b'{"seen": "never"}',
    b"-1",
    b"[" * 10_000,
)


@pytest.fixture
def relay(redis_server: RedisServer, redis_client: redis.Redis) -> RelayClient:
    redis_client.flushall()
    return client(redis_server)


def request(**fields: Any) -> RunRequest:
    return RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p", **fields)


def write_into(server: redis.Redis, key: str, value: bytes) -> None:
    """Put an entry into a key of the type that it has in `Keys.shared`."""
    if KEYS.shared()[key] == "hash":
        server.hset(key, value, value)
    else:
        server.zadd(key, {value: 1.0})


READERS: dict[str, Callable[[RelayClient, Ledger], object]] = {
    "runs": lambda relay, _: relay.runs(),
    "workers": lambda relay, _: relay.workers(),
    "refused": lambda relay, _: relay.refused(),
    "overdue": lambda _, ledger: ledger.overdue(queue_empty=True),
    "bury": lambda _, ledger: ledger.forget_dead_workers(),
    "strays": lambda _, ledger: StaleLockHolders(ledger.client, ledger.keys).end(),
    "sweep": lambda _, ledger: reaper(ledger).sweep(),
    "purge": lambda relay, _: relay.purge(),
}


def reaper(ledger: Ledger) -> Reaper:
    found = Reaper(
        ledger,
        lambda *_: None,
        queue="dbt-relay",
        interval=0.0,
        strays=StaleLockHolders(ledger.client, ledger.keys),
    )
    found._server_id = str(ledger.client.info("server")["run_id"])
    found._wait_for_renewals = pytest.fail  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", KEYS.shared())
def test_readers_accept_every_foreign_entry(key: str, reader: str, relay: RelayClient) -> None:
    good = request()
    relay.store.submit(good)
    for value in JUNK:
        write_into(relay.store.client, key, value)
    READERS[reader](relay, Ledger(relay.store.client, keys=KEYS))
    assert [run.run_id for run in relay.runs()] == [good.run_id]


@pytest.mark.parametrize("key", KEYS.shared())
def test_reaper_removes_key_of_another_type_and_continues(key: str, relay: RelayClient) -> None:
    ledger = Ledger(relay.store.client, keys=KEYS)
    relay.store.client.set(key, "somebody else's")
    for _ in range(2):
        reaper(ledger).sweep()
    relay.purge()
    assert relay.store.client.type(key) in (b"none", KEYS.shared()[key].encode())


def test_purge_removes_invalid_entries(relay: RelayClient) -> None:
    server = relay.store.client
    good = request()
    relay.store.submit(good)
    server.hset(KEYS.strays(), "junk", 1)
    server.hset(KEYS.workers(), "junk", "junk")
    server.zadd(KEYS.active(), {"junk": 1, b"\xff": 2})
    server.hset(KEYS.run("not-an-id"), "state", "active")
    server.set(KEYS.run(b"\xff".decode(errors="replace")), "a string")
    server.set(KEYS.lock("duckdb:/w.duckdb"), "a string")
    server.set(KEYS.leases(), "a string")
    done = relay.purge()
    assert done.unreadable >= 3
    assert done.orphans >= 2
    assert {key.decode() for key in server.scan_iter()} <= {
        *KEYS.of_run(good.run_id), KEYS.active(), KEYS.watches(),
    }  # fmt: skip


def test_damaged_run_does_not_delay_other_runs(relay: RelayClient) -> None:
    """The reaper looks at a run whose keys have another type, and at the one after it."""
    ledger = Ledger(relay.store.client, keys=KEYS)
    damaged, good = request(), request()
    for each in (damaged, good):
        relay.store.submit(each)
    relay.store.client.delete(KEYS.states(damaged.run_id))
    relay.store.client.set(KEYS.states(damaged.run_id), "a string")
    for each in (damaged, good):
        relay.store.client.zadd(KEYS.watches(), {f"{each.run_id} @plan": 1})
    sent: list[str] = []
    sweeping = reaper(ledger)
    sweeping._publish = lambda run_id, steps: sent.extend(f"{run_id} {step}" for step in steps)
    sweeping.sweep()
    assert sent == [f"{good.run_id} @plan"]
    assert (damaged.run_id, "@plan") not in ledger.overdue(queue_empty=True)  # it is looked at again later


def test_unreadable_run_is_listed_as_unreadable(
    relay: RelayClient,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = request(submitted_at=1.0)
    relay.store.submit(good)
    bad = new_run_id()
    relay.store.call("submit", bad, b'{"run_id": 7}', "@plan", 0, 0)
    states = {run.run_id: run.state for run in relay.runs()}
    assert states == {good.run_id: "active", bad: UNREADABLE}
    monkeypatch.setenv("DBT_RELAY_BROKER_URL", redis_server.broker_url)
    monkeypatch.setenv("DBT_RELAY_NAMESPACE", "relay")
    for command in (["runs"], ["status"], ["purge"]):
        assert main(command) in (0, 1)
    assert bad in capsys.readouterr().out
    assert main(["retry", bad]) == 2
    assert "not a valid run request" in capsys.readouterr().err
    assert find_run(relay, "latest") == good.run_id  # though the other is newer
    relay.cancel(good.run_id)
    assert [run.run_id for run in relay.runs() if run.state == UNREADABLE] == [bad]


def test_submit_refuses_requests_that_workers_would_refuse(relay: RelayClient) -> None:
    for bad in (
        RunRequest(run_id="mine", args=("run",), cwd="/p", project_dir="/p"),
        request(env={"A=B": "x"}),
        request(priority=10),
    ):
        with pytest.raises(InvalidMessageError):
            relay.submit(bad)
    assert relay.store.client.keys("relay:*") == []


def test_unreadable_result_is_an_error_with_a_reason(relay: RelayClient) -> None:
    each = request()
    relay.store.submit(each)
    relay.store.client.hset(KEYS.run(each.run_id), mapping={"final": "{", "state": "succeeded"})
    with pytest.raises(InvalidMessageError, match="not readable"):
        relay.collect(each.run_id, [])


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(1, {"DBT_RELAY_REAP_SECONDS": "0.2"})


def test_workers_build_while_every_shared_key_has_foreign_entries(
    pool: WorkerPool,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    copy_project: Callable[..., Path],
    duckdb_file: Path,
) -> None:
    """`HSET relay:strays junk 1` once stopped every sweep, and so all work on DuckDB, permanently."""
    for key in KEYS.shared():
        for value in (b"junk", b"{}", b'{"seen": "never"}'):
            write_into(redis_client, key, value)
    with connect(redis_server.url) as server:
        for key in server.scan_iter(match=f"{KEYS.context('')}*"):
            server.set(key, b"junk")
    result = runner(redis_server, copy_project("small")).execute_command(["build"], stream_output=False)
    assert result.success, result.stdout
    assert pool.alive


def test_a_damaged_manifest_in_redis_is_parsed_again(
    pool: WorkerPool,
    worker_pool: WorkerPools,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    copy_project: Callable[..., Path],
    duckdb_file: Path,
) -> None:
    project = copy_project("small")
    assert runner(redis_server, project).execute_command(["build"], stream_output=False).success
    with connect(redis_server.url) as server:
        contexts = list(server.scan_iter(match=f"{KEYS.context('')}*"))
        assert contexts
        for key in contexts:
            server.set(key, b"junk")
    pool.stop()
    worker_pool(1)
    result = runner(redis_server, project).execute_command(["build"], stream_output=False)
    assert result.success, result.stdout


def test_a_request_of_a_newer_release_is_executed(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    worker_pool: WorkerPools,
    copy_project: Callable[..., Path],
) -> None:
    import json

    project = copy_project("small")
    relay, run_id = client(redis_server), new_run_id()
    body = json.loads(
        encode_request(
            RunRequest(run_id=run_id, args=("ls",), command="ls", cwd=str(project), project_dir=str(project))
        )
    )
    relay.store.call("submit", run_id, json.dumps({**body, "spice": {"hot": 1}}), "@command", 0, 0)
    relay.publish(run_id, ("@command",))
    worker_pool(1)
    result = relay.result(run_id, timeout=60)
    assert result.success, result.stdout
    assert [run.command for run in relay.runs()] == ["ls"]
