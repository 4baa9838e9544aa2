"""Ctrl-C while a run is followed, in this process: once, twice, and where it cannot be heeded."""

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
from workers.ledger.ledger import Claim

PROJECT = PROJECTS / "trial"


class Held:
    """A node that does not end before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self, _: Claim) -> ErrorInfo | None:
        assert self.let_go.wait(30)
        return None


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, held: Held) -> Iterator[FakeWorker]:
    with FakeWorker({"a": (), "b": ("a",)}, {"a": held}).at_work(monkeypatch) as worker:
        yield worker
        held.let_go.set()


def follow(on_event: Callable[[Event], None], **stack: Any) -> None:
    follower = Follower(Stack(broker_url="redis://nowhere:1/0", **stack), Settings())
    invocation = parse_invocation(["run"], environ={}, cwd=PROJECT)
    follower.run(invocation, cwd=PROJECT, environ={}, on_event=on_event)


class CtrlC:
    """Somebody who presses Ctrl-C when the first node runs, and again, so often."""

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


def test_the_first_cancels_and_waits_for_the_end(
    worker: FakeWorker, held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[str] = []

    def pressed() -> None:
        runs.append(the_run(worker))
        held.let_go.set()

    with pytest.raises(KeyboardInterrupt, match=r"run \S+ was cancelled"):
        follow(CtrlC(1, pressed))
    assert worker.ledger.fact(runs[0], "state") == "cancelled"
    assert worker.ledger.fact(runs[0], "stop") == "interrupted by its caller"
    assert capsys.readouterr().err == f"cancelling run {runs[0]}; Ctrl-C again stops waiting for its end\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_leaves_the_run_to_end_by_itself(worker: FakeWorker, held: Held) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        follow(CtrlC(2))
    run_id = the_run(worker)
    assert str(caught.value) == (
        f"left run {run_id}, which is being cancelled and ends by itself: `dbt-relay watch {run_id}` "
        f"follows it, `dbt-relay result {run_id}` says what became of it"
    )
    assert worker.ledger.fact(run_id, "state") == "stopping"  # the cancel got through, in any case
    held.let_go.set()
    result = RelayClient("redis://nowhere:1/0").result(run_id, timeout=30)
    assert result.error is not None
    assert result.error.code == "cancelled"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_is_left_keeps_its_environment(worker: FakeWorker, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="left run"):
        follow(CtrlC(2), runtime_dir=tmp_path)
    raw: Any = worker.redis().hget(worker.ledger.keys.run(the_run(worker)), "request")
    env_file = decode_request(raw).env_file
    assert env_file is not None
    assert Path(env_file).exists()


def test_a_private_stack_ends_with_its_caller_and_so_says_it(
    worker: FakeWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt, match="the private stack that executes it ends with this process"):
        follow(CtrlC(2), runtime_dir=tmp_path, check=lambda: None)
    assert "Ctrl-C again stops its private stack" in capsys.readouterr().err


def test_a_cancel_that_did_not_get_through_is_said(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ConnectionError("away")

    monkeypatch.setattr(RelayClient, "cancel", fail)
    with pytest.raises(KeyboardInterrupt, match=r"could not be cancelled \(away\): `dbt-relay cancel "):
        follow(CtrlC(2, lambda: wait_until(failed.is_set)))


def test_the_callers_own_handler_is_left_alone(worker: FakeWorker, held: Held) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        follow(CtrlC(2, held.let_go.set))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard == [signal.SIGINT] * 2


def test_one_that_comes_before_the_run_is_recorded_is_not_forgotten(
    worker: FakeWorker, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, heard = RelayClient.submit, threading.Event()
    cancel = RelayClient.cancel

    def early(client: RelayClient, request: RunRequest) -> str:
        signal.raise_signal(signal.SIGINT)
        wait_until(heard.is_set)  # it was asked of a run that there is not
        return submit(client, request)

    def asked(client: RelayClient, run_id: str, reason: str) -> bool:
        answer = cancel(client, run_id, reason)
        heard.set()
        return answer

    monkeypatch.setattr(RelayClient, "submit", early)
    monkeypatch.setattr(RelayClient, "cancel", asked)
    held.let_go.set()
    with pytest.raises(KeyboardInterrupt, match=r"run \S+ was cancelled"):
        follow(CtrlC(0))


def test_a_second_one_in_the_middle_of_the_first_cancels_all_the_same(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "cancel":
            monkeypatch.setattr(threading.Thread, "start", start)
            signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt, match="left run"):
        follow(CtrlC(1))
    assert worker.ledger.fact(the_run(worker), "state") == "stopping"
