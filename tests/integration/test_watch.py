"""Watching a run: early, late, after its end, and through the pub/sub channel."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from producer.client import RelayClient
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Gate, submit
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.errors import RelayError
from workers.contract.events import LINE, RUN, Event, decode_event
from workers.contract.keys import new_run_id


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture
def relay(redis_server: RedisServer) -> RelayClient:
    return RelayClient(redis_server.broker_url)


class Watcher(threading.Thread):
    """Watches a run in a thread."""

    def __init__(self, relay: RelayClient, run_id: str, *, from_start: bool = True) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self.at_the_gate = threading.Event()
        self._watch = lambda: relay.watch(run_id, from_start=from_start, timeout=60)
        self.start()

    def run(self) -> None:
        for event in self._watch():
            self.events.append(event)
            if "before the gate" in event.text:
                self.at_the_gate.set()

    def ended(self) -> list[Event]:
        self.join(60)
        assert not self.is_alive()
        return self.events


def test_late_watcher_gets_the_same_events_as_an_early_one(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    run_id = submit(
        redis_server,
        project,
        ["run", "--select", "gated+", "int_model_a", "--vars", f"{{gate: {gate.path}}}"],
    )
    early = Watcher(relay, run_id)
    assert early.at_the_gate.wait(60)
    late = Watcher(relay, run_id)
    assert late.at_the_gate.wait(10)  # it gets earlier events first
    gate.open()
    first, second = early.ended(), late.ended()
    assert first == second
    assert [event.seq for event in first] == list(range(1, len(first) + 1))
    assert (first[-1].kind, first[-1].state) == (RUN, "succeeded")
    lines = [event.text for event in first if event.kind == LINE]
    assert relay.result(run_id).stdout.splitlines() == lines
    assert "behind the gate" in " ".join(lines)
    assert Watcher(relay, run_id).ended() == first  # also after the end of the run


def test_watcher_can_skip_earlier_events(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    run_id = submit(redis_server, project, ["run", "--select", "gated", "--vars", f"{{gate: {gate.path}}}"])
    early = Watcher(relay, run_id)
    assert early.at_the_gate.wait(60)
    late = Watcher(relay, run_id, from_start=False)
    late.join(0.3)  # until it blocks in its first read
    gate.open()
    first, second = early.ended(), late.ended()
    assert second
    assert second == first[-len(second) :]
    assert not [event for event in second if "before the gate" in event.text]


def test_channel_publishes_the_events_of_the_stream(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    run_id = submit(redis_server, project, ["run", "--select", "gated", "--vars", f"{{gate: {gate.path}}}"])
    with redis_server.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(relay.store.keys.channel(run_id))
        received: list[Event] = []
        opened = False
        while not received or received[-1].kind != RUN:
            message = pubsub.get_message(timeout=60)
            if message is None:
                continue
            seq, _, body = message["data"].partition(" ")
            received.append(decode_event(body, seq=int(seq)))
            if not opened and "before the gate" in received[-1].text:
                opened = True
                gate.open()
    kept = list(relay.watch(run_id))
    assert received == kept[-len(received) :]


def test_watching_an_unknown_run_is_an_error(relay: RelayClient) -> None:
    unknown = new_run_id()
    with pytest.raises(RelayError, match=f"there is no run {unknown}"):
        next(relay.watch(unknown))


def test_watch_times_out_and_the_run_goes_on(
    pool: WorkerPool, project: Path, redis_server: RedisServer, relay: RelayClient, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    run_id = submit(redis_server, project, ["run", "--select", "gated", "--vars", f"{{gate: {gate.path}}}"])
    with pytest.raises(TimeoutError, match=run_id):
        list(relay.watch(run_id, timeout=0.5))
    gate.open()
    assert relay.result(run_id, timeout=60).success
    assert relay.runs()[0].run_id == run_id
