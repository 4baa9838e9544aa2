"""Ctrl-C while a run is followed: once, twice, and where the cancellation cannot reach Redis."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_invocation
from producer.session import Follower, Stack
from tests.support.fake_worker import FakeWorker
from tests.support.projects import PROJECTS
from tests.support.waiting import wait_until
from workers.contract.errors import ErrorInfo
from workers.contract.events import STATE, Event
from workers.contract.messages import RunRequest, decode_request
from workers.contract.settings import Settings
from workers.ledger.records import Claim

PROJECT = PROJECTS / "trial"


class BlockedNode:
    """A node that runs until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, _: Claim) -> ErrorInfo | None:
        assert self.release.wait(30)
        return None


@pytest.fixture
def blocked() -> Iterator[BlockedNode]:
    blocked = BlockedNode()
    yield blocked
    blocked.release.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, blocked: BlockedNode) -> Iterator[FakeWorker]:
    with FakeWorker({"a": (), "b": ("a",)}, {"a": blocked}).running(monkeypatch) as worker:
        yield worker
        blocked.release.set()


def follow(on_event: Callable[[Event], None], **stack: Any) -> None:
    follower = Follower(Stack(broker_url="redis://nowhere:1/0", **stack), Settings())
    invocation = parse_invocation(["run"], environ={}, cwd=PROJECT)
    follower.run(invocation, cwd=PROJECT, environ={}, on_event=on_event)


class CtrlC:
    """Event handler that sends SIGINT `times` times when the first node starts."""

    def __init__(self, times: int, after_first: Callable[[], object] = lambda: None) -> None:
        self.times, self.after_first = times, after_first

    def __call__(self, event: Event) -> None:
        if event.kind == STATE and event.node.endswith(".a") and event.state == "running":
            for time in range(self.times):
                signal.raise_signal(signal.SIGINT)
                if time == 0:
                    self.after_first()


def the_run(worker: FakeWorker) -> str:
    (run_id,) = worker.ledger.active_runs()
    return run_id


def test_first_ctrl_c_cancels_the_run_and_waits_for_its_end(
    worker: FakeWorker, blocked: BlockedNode, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[str] = []

    def pressed() -> None:
        runs.append(the_run(worker))
        wait_until(lambda: worker.ledger.fact(runs[0], "state") == "stopping")
        blocked.release.set()

    with pytest.raises(KeyboardInterrupt, match=r"run \S+ was cancelled"):
        follow(CtrlC(1, pressed))
    assert worker.ledger.fact(runs[0], "state") == "cancelled"
    assert worker.ledger.fact(runs[0], "stop") == "interrupted by its caller"
    assert capsys.readouterr().err == f"cancelling run {runs[0]}; Ctrl-C again stops waiting for its end\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_stops_waiting_for_the_run(worker: FakeWorker, blocked: BlockedNode) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        follow(CtrlC(2))
    run_id = the_run(worker)
    assert str(caught.value) == (
        f"stopped waiting for run {run_id}, which is being cancelled: `dbt-relay watch {run_id}` "
        f"follows it, `dbt-relay result {run_id}` shows its result"
    )
    assert worker.ledger.fact(run_id, "state") == "stopping"  # Redis has the cancellation
    blocked.release.set()
    result = RelayClient("redis://nowhere:1/0").result(run_id, timeout=30)
    assert result.error is not None
    assert result.error.code == "cancelled"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_environment_file_of_a_detached_run_is_kept(worker: FakeWorker, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped waiting for run"):
        follow(CtrlC(2), runtime_dir=tmp_path)
    raw: Any = worker.redis().hget(worker.ledger.keys.run(the_run(worker)), "request")
    env_file = decode_request(raw).env_file
    assert env_file is not None
    assert Path(env_file).exists()


def test_message_says_that_a_private_stack_ends_with_its_caller(
    worker: FakeWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt, match="the private stack that executes it ends with this process"):
        follow(CtrlC(2), runtime_dir=tmp_path, check=lambda: None)
    assert "Ctrl-C again stops its private stack" in capsys.readouterr().err


def test_failed_cancellation_is_reported(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ConnectionError("away")

    monkeypatch.setattr(RelayClient, "cancel", fail)
    with pytest.raises(KeyboardInterrupt, match=r"could not be cancelled \(away\): `dbt-relay cancel "):
        follow(CtrlC(2, lambda: wait_until(failed.is_set)))


def test_callers_own_sigint_handler_is_kept(worker: FakeWorker, blocked: BlockedNode) -> None:
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        follow(CtrlC(2, blocked.release.set))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert received == [signal.SIGINT] * 2


def test_ctrl_c_before_the_run_is_recorded_cancels_it(
    worker: FakeWorker, blocked: BlockedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, cancel_sent = RelayClient.submit, threading.Event()
    cancel = RelayClient.cancel

    def early(client: RelayClient, request: RunRequest) -> str:
        signal.raise_signal(signal.SIGINT)
        wait_until(cancel_sent.is_set)  # for a run that does not exist yet
        return submit(client, request)

    def observed_cancel(client: RelayClient, run_id: str, reason: str) -> bool:
        answer = cancel(client, run_id, reason)
        cancel_sent.set()
        return answer

    monkeypatch.setattr(RelayClient, "submit", early)
    monkeypatch.setattr(RelayClient, "cancel", observed_cancel)
    blocked.release.set()
    with pytest.raises(KeyboardInterrupt, match=r"run \S+ was cancelled"):
        follow(CtrlC(0))


def test_second_ctrl_c_during_the_first_handler_cancels_the_run(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "cancel":
            monkeypatch.setattr(threading.Thread, "start", start)
            signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped waiting for run"):
        follow(CtrlC(1))
    assert worker.ledger.fact(the_run(worker), "state") == "stopping"
