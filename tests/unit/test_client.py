"""RelayClient against a ledger in fakeredis: submit, watch, list, cancel, and errors of Redis."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from producer.client import RelayClient
from producer.session import _lines_to
from tests.support.fake_worker import FakeWorker
from workers.contract.errors import BrokerUnavailableError, Category, RelayError
from workers.contract.events import LINE, MISSING, RUN, Event, encode_event
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.ledger.records import Claim

NODES: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",)}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorker]:
    with FakeWorker(NODES).running(monkeypatch) as worker:
        yield worker


@pytest.fixture
def relay(worker: FakeWorker) -> RelayClient:
    return RelayClient("redis://nowhere:1/0")


def request(*args: str, **options: Any) -> RunRequest:
    return RunRequest(run_id=new_run_id(), args=args or ("run",), cwd="/p", project_dir="/p", **options)


def test_submitted_run_returns_its_result(relay: RelayClient) -> None:
    asked = request("run", "--threads", "2")
    run_id = relay.submit(asked)
    result = relay.result(run_id, timeout=20)
    assert (result.success, result.run_id, result.command) == (True, run_id, ["dbt", *asked.args])
    assert result.stdout.splitlines()[0] == "Found 2 models"
    assert [node.name for node in result.nodes] == ["a", "b"]
    assert [attempt.step for attempt in result.attempts] == []  # the fake worker records none
    assert 0 <= result.execution_time < 20


def test_watch_replays_events_or_yields_only_new_ones(relay: RelayClient, worker: FakeWorker) -> None:
    asked = request()
    relay.store.submit(asked)
    first: list[Event] = []
    second: list[Event] = []
    threads = [
        threading.Thread(target=lambda: first.extend(relay.watch(asked.run_id, timeout=20))),
        threading.Thread(
            target=lambda: second.extend(relay.watch(asked.run_id, from_start=False, timeout=20))
        ),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # the run continues when the second watch blocks in its first read
    worker.publish(asked.run_id, ("@plan",))
    for thread in threads:
        thread.join(20)
    assert (first[0].kind, first[0].state) == (RUN, "active")
    assert (first[-1].kind, first[-1].state) == (RUN, "succeeded")
    assert second == first[1:]
    assert [event.seq for event in first] == list(range(1, len(first) + 1))


def test_watch_of_new_events_loses_none_between_two_reads(
    relay: RelayClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.client.watch.BLOCK_MS", 10)
    asked = request("ls")
    relay.store.submit(asked)
    reads: list[None] = []

    def publish_after_first_read() -> None:
        if not reads:
            line = encode_event(Event(kind=LINE, run_id=asked.run_id, text="between"))
            worker.ledger.append_events(asked.run_id, "x", 1, [line])
            worker.publish(asked.run_id, ("@command",))
        reads.append(None)

    events = relay.watch(asked.run_id, from_start=False, timeout=20, on_idle=publish_after_first_read)
    assert next(events).text == "between"


def test_watch_reports_events_that_redis_no_longer_keeps(relay: RelayClient, worker: FakeWorker) -> None:
    asked = request("ls")
    relay.store.submit(asked)
    lines = [encode_event(Event(kind=LINE, run_id=asked.run_id, text=str(number))) for number in range(10)]
    worker.ledger.append_events(asked.run_id, "x", 1, lines)
    worker.redis().xtrim(relay.store.keys.events(asked.run_id), maxlen=5, approximate=False)
    worker.publish(asked.run_id, ("@command",))
    first, *rest = relay.watch(asked.run_id, timeout=20)
    assert (first.state, first.seq) == (MISSING, 6)
    assert f"events 1 to 6 of run {asked.run_id} are no longer kept" in first.text
    assert [event.seq for event in rest] == list(range(7, 7 + len(rest)))
    assert [event.text for event in rest if event.kind == LINE][:5] == ["5", "6", "7", "8", "9"]
    result = relay.result(asked.run_id, timeout=20)
    assert result.success
    assert result.warnings == (first.text,)


def test_watch_ends_without_the_last_event_of_an_ended_run(relay: RelayClient, worker: FakeWorker) -> None:
    run_id = relay.submit(request("ls"))
    assert relay.result(run_id, timeout=20).success
    stream = relay.store.keys.events(run_id)
    [(last, _)] = worker.redis().xrevrange(stream, count=1)
    worker.redis().xdel(stream, last)
    events = list(relay.watch(run_id, timeout=20))
    assert events
    assert events[-1].state not in {"succeeded", "failed", "cancelled"}


def test_on_idle_is_called_while_there_are_no_events(relay: RelayClient) -> None:
    asked = request()
    relay.store.submit(asked)
    looks: list[int] = []
    with pytest.raises(TimeoutError, match="did not end in 3 s"):
        list(relay.watch(asked.run_id, timeout=3, on_idle=lambda: looks.append(1)))
    assert looks


def away(times: int, relay: RelayClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next reads of a stream fail, as while Redis cannot be reached."""
    left = iter(range(times))
    read = relay.store.client.xread

    def fail(*args: Any, **options: Any) -> Any:
        if next(left, None) is not None:
            raise redis.ConnectionError("Connection refused")
        return read(*args, **options)

    monkeypatch.setattr(relay.store.client, "xread", fail)


def test_watch_continues_when_redis_is_reachable_again(
    relay: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = relay.submit(request())
    away(3, relay, monkeypatch)
    assert relay.result(run_id, timeout=20).success


def test_watch_fails_when_redis_stays_unreachable(
    relay: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = relay.submit(request())
    relay.away = 0.0
    away(3, relay, monkeypatch)
    with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
        list(relay.watch(run_id, timeout=20))


def test_run_is_submitted_even_where_its_message_cannot_be_sent(
    relay: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(RelayClient, "publish", full)
    run_id = relay.submit(request())
    assert relay.store.active_runs() == [run_id]


def test_cancel_stops_an_active_run(relay: RelayClient, worker: FakeWorker) -> None:
    going = threading.Event()
    stopped = threading.Event()

    def running(claim: Claim) -> None:
        going.set()
        assert stopped.wait(10)

    worker.behaviour = {"a": running}
    run_id = relay.submit(request())
    assert going.wait(10)
    assert relay.cancel(run_id, "enough") is True
    assert relay.cancel(run_id) is False  # already cancelled
    stopped.set()
    result = relay.result(run_id, timeout=20)
    assert not result.success
    assert result.error is not None
    assert (result.error.category, result.error.message) == ("cancelled", "the run was cancelled: enough")
    assert relay.cancel("20250101T000000-000000000000") is False


def test_unknown_run_is_an_error(relay: RelayClient) -> None:
    nobody = new_run_id()
    for ask in (
        lambda run_id: next(relay.watch(run_id)),
        relay.result,
        lambda run_id: relay.collect(run_id, []),
    ):
        with pytest.raises(RelayError, match=f"there is no run {nobody}") as caught:
            ask(nobody)
        assert caught.value.info is not None
        assert caught.value.info.code == "no_such_run"
        assert "dbt-relay runs" in caught.value.suggested_fix
    assert relay.artifact(nobody, "manifest.json") is None


def test_active_run_has_no_result(relay: RelayClient) -> None:
    asked = request()
    relay.store.submit(asked)
    with pytest.raises(RelayError):
        relay.collect(asked.run_id, [])


def test_runs_are_listed_newest_first(relay: RelayClient, worker: FakeWorker) -> None:
    first, second = request(submitted_at=1.0), request("build", submitted_at=2.0)
    first_id = relay.submit(first)
    relay.result(first_id, timeout=20)
    relay.store.submit(second)
    listed = {summary.run_id: summary for summary in relay.runs()}
    assert [summary.run_id for summary in relay.runs()] == [
        second.run_id,
        first_id,
    ]  # of one second, as a rule
    done = listed[first_id]
    assert (done.state, done.command, done.done, done.total, done.submitted_at) == (
        "succeeded",
        "run",
        2,
        2,
        1.0,
    )
    assert (listed[second.run_id].state, listed[second.run_id].command) == ("active", "build")
    worker.redis().delete(relay.store.keys.run(first_id))  # expired
    assert [summary.run_id for summary in relay.runs()] == [second.run_id]


def test_workers_with_a_stale_registration_are_not_listed(relay: RelayClient, worker: FakeWorker) -> None:
    said = {"host": "h", "pid": 1, "processes": 2, "version": "1", "queue": "q", "since": 0}
    for name, seen in (("h:1", time.time()), ("h:2", time.time() - 60)):
        worker.redis().hset(relay.store.keys.workers(), name, json.dumps({**said, "seen": seen}))
    [info] = relay.workers()
    assert (info.host, info.processes) == ("h", 2)


def test_refused_messages_are_counted_by_reason(relay: RelayClient, worker: FakeWorker) -> None:
    assert relay.refused() == {}
    for reason in ("not a message", "unknown task", "unknown task", "content of type \ud800"):
        worker.ledger.count_rejected(reason)
    assert relay.refused() == {"unknown task": 2, "not a message": 1, "content of type \\ud800": 1}


def test_own_messages_are_printed_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    hear = _lines_to(lines.append)
    hear(Event(kind=LINE, run_id="r", text="1 of 1 START"))
    hear(Event(kind="state", run_id="r", node="model.p.a", state="running"))
    hear(
        Event(
            kind="state", run_id="r", node="model.p.a", state="waiting", text="20260101T000000-0123456789ab"
        )
    )
    hear(Event(kind="state", run_id="r", node="@close", state="repeated", text="hooks may have run twice"))
    assert lines == ["1 of 1 START"]
    said = (
        "dbt-relay: model.p.a waits: run 20260101T000000-0123456789ab is writing its relation\n"
        "dbt-relay: warning: hooks may have run twice\n"
    )
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "error",
    [redis.ConnectionError("refused"), redis.TimeoutError("late"), OSError("gone"), OperationalError("gone")],
)
def test_unreachable_redis_is_a_broker_error_with_its_password_masked(
    relay: RelayClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    relay.broker_url = "redis://:hunter2@somewhere:6379/0"

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(relay.store, "submit", fail)
    with pytest.raises(
        BrokerUnavailableError, match=r"Redis at .*somewhere:6379/0 cannot be reached"
    ) as caught:
        relay.submit(request())
    assert caught.value.retryable
    assert caught.value.info is not None
    assert caught.value.info.category == Category.BROKER.value
    assert "hunter2" not in str(caught.value) + repr(caught.value.info)
    assert caught.value.__cause__ is error


def test_other_exceptions_are_not_converted(relay: RelayClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(relay.store, "submit", fail)
    with pytest.raises(ZeroDivisionError):
        relay.submit(request())


def test_messages_have_celerys_format(redis_server: Any) -> None:
    """Celery reads the messages that the client writes without Celery."""
    from celery import Celery

    redis_server.flush()
    relay = RelayClient(redis_server.broker_url, queue="wire")
    relay.publish("20250101T000000-0123456789ab", ("@plan", "model.p.a", "@session"))
    with (
        Celery(broker=redis_server.broker_url).connection() as connection,
        connection.SimpleQueue("wire") as queue,
    ):
        messages = [queue.get(timeout=5) for _ in range(3)]
        for message in messages:
            message.ack()
    assert [message.headers["task"] for message in messages] == ["relay.plan", "relay.node", "relay.session"]
    assert messages[1].payload[0] == ["20250101T000000-0123456789ab", "model.p.a"]
    assert messages[1].content_type == "application/json"
    assert (messages[1].headers["root_id"], messages[1].headers["parent_id"]) == (
        messages[1].headers["id"],
        None,
    )
    assert messages[1].headers["argsrepr"] == "('model.p.a', '20250101T000000-0123456789ab')"
    relay.publish("20250101T000000-0123456789ab", ())
    with redis_server.client() as client:
        assert client.llen("wire") == 0


def test_messages_are_queued_in_order_by_priority(relay: RelayClient) -> None:
    first, second = request(), request(priority=6)
    for each in (first, second):
        relay.store.submit(each)
    steps = ("model.p.a", f"{second.run_id} model.p.x", "model.p.b")
    relay.store.publish(first.run_id, steps, "several", root_id="root", parent_id="parent")

    def taken(queue: str) -> list[Any]:
        raw: Any = relay.store.client.lrange(queue, 0, -1)
        return [json.loads(each) for each in reversed(raw)]  # workers take them from the right

    messages = taken("several")
    bodies = [json.loads(base64.b64decode(each["body"]))[0] for each in messages]
    assert bodies == [[first.run_id, "model.p.a"], [first.run_id, "model.p.b"]]
    assert {(each["headers"]["root_id"], each["headers"]["parent_id"]) for each in messages} == {
        ("root", "parent")
    }
    [other] = taken("several\x06\x166")
    assert json.loads(base64.b64decode(other["body"]))[0] == [second.run_id, "model.p.x"]
    assert other["properties"]["priority"] == 6
