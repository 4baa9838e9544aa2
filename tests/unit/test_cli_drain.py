"""``dbt-relay drain``: selected workers, the control command, progress and exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from producer.cli import broker
from producer.cli import main as cli
from producer.client import RelayClient, WorkerInfo, drain
from workers.contract.keys import CONTROL_DRAIN, Keys
from workers.contract.run_store import RunStore

RUN = "20260101T000000-0123456789ab"
Asked = list[tuple[list[str], str, dict[str, Any]]]


def plain(name: str, pid: int, **more: Any) -> dict[str, Any]:
    return {
        "host": "box", "pid": pid, "processes": 2, "version": "1", "queue": "q", "since": 1.0, "seen": time.time(),
        "name": name, "children": [pid + 1, pid + 2], **more,
    }  # fmt: skip


class Stage:
    """A Redis with registered workers, and the control commands that were sent."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeRedis()
        self.keys = Keys("t")
        self.asked: Asked = []
        self.answers: list[dict[str, Any]] = []
        self.moves: list[Any] = []
        self.client: Any = SimpleNamespace(
            broker_url="redis://x", store=RunStore(self.redis, keys=self.keys), workers=self.workers
        )

    def hello(self, name: str, pid: int, **more: Any) -> None:
        self.redis.hset(self.keys.workers(), f"box:{pid}", json.dumps(plain(name, pid, **more)))

    def goodbye(self, pid: int) -> None:
        self.redis.hdel(self.keys.workers(), f"box:{pid}")

    def executes(self, step: str, pid: int) -> None:
        self.redis.zadd(self.keys.leases(), {f"{RUN} {step}": 1})
        self.redis.hset(self.keys.steps(RUN), step, json.dumps({"owner": f"box:{pid}"}))

    def workers(self) -> list[WorkerInfo]:
        client = RelayClient.__new__(RelayClient)
        client.broker_url, client.store = "redis://x", self.client.store
        return RelayClient.workers(client)

    def call(self, names: list[str], command: str, arguments: dict[str, Any], timeout: float) -> Any:
        assert timeout > 0
        self.asked.append((names, command, arguments))
        return self.answers


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage()
    monkeypatch.setattr(broker, "client", lambda: made.client)
    monkeypatch.setattr("kombu.pidbox.Mailbox", lambda *_, **__: lambda _: made)
    monkeypatch.setattr(drain.time, "sleep", lambda _: made.moves.pop(0)() if made.moves else None)
    yield made
    assert not made.moves


def test_named_workers_are_drained_and_watched(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.hello("w@one", 10)
    stage.hello("w@two", 20)
    stage.executes("model.p.a", 11)
    stage.executes("model.p.b", 21)
    stage.executes("@session", 12)
    stage.answers = [{"w@one": {"ok": 5}}]
    stage.moves = [
        lambda: stage.redis.zrem(stage.keys.leases(), f"{RUN} model.p.a"),
        lambda: stage.goodbye(10),
    ]
    assert cli.main(["drain", "w@one", "--grace", "5"]) == 0
    assert stage.asked == [(["w@one"], CONTROL_DRAIN, {"grace": 5.0})]
    assert capsys.readouterr().out.splitlines() == [
        f"w@one: draining, executing model.p.a of {RUN}",
        "w@one: draining, executing no known step",
        "w@one: drained",
    ]


def test_all_workers_are_drained_except_draining_ones(stage: Stage) -> None:
    stage.hello("w@one", 10, draining=True)
    stage.hello("w@two", 20)
    stage.answers = [{"w@two": {"ok": 5}}]
    stage.moves = [lambda: stage.goodbye(10), lambda: stage.goodbye(20)]
    assert cli.main(["drain", "--all"]) == 0
    assert stage.asked == [(["w@two"], CONTROL_DRAIN, {})]


def test_draining_worker_is_only_watched(stage: Stage) -> None:
    stage.hello("w@one", 10, draining=True)
    stage.moves = [lambda: stage.goodbye(10)]
    assert cli.main(["drain", "box:10"]) == 0
    assert stage.asked == []


def test_timeout_ends_the_wait(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.hello("w@one", 10)
    stage.answers = [{"w@one": {"ok": 5}}]
    assert cli.main(["drain", "w@one", "--timeout", "0"]) == 1
    assert "Not drained: w@one" in capsys.readouterr().err


def test_silent_and_lost_workers_are_reported(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.hello("w@deaf", 10)
    stage.hello("w@dying", 20)
    stage.answers = [{"w@dying": {"ok": 5}}, {"w@deaf": {"error": "no"}}]
    stage.executes("model.p.b", 21)
    stage.moves = [lambda: stage.hello("w@dying", 20, seen=time.time() - 60)]
    assert cli.main(["drain", "--all"]) == 1
    said = capsys.readouterr()
    assert "w@deaf: does not answer" in said.out
    assert f"w@dying: ended without deregistering; it was executing model.p.b of {RUN}" in said.out
    assert "Not drained: w@deaf, w@dying" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Name the workers to drain, or give --all."),
        (["--all", "w@one"], "Name the workers to drain, or give --all."),
        (["w@onne"], "There is no worker 'w@onne'. Did you mean 'w@one'?"),
    ],
)
def test_missing_or_unknown_names_are_refused(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    stage.hello("w@one", 10)
    assert cli.main(["drain", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Connected workers: w@one." in said
    assert stage.asked == []


def test_without_workers_there_is_nothing_to_drain(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["drain", "--all"]) == 0
    assert capsys.readouterr().out == "No worker is connected.\n"
