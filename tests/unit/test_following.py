"""Following a run: callers that are slower than the run, and callers that leave with an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_invocation
from producer.following.follow import EventReader
from producer.session import Follower, Stack
from tests.support.fake_worker import FakeWorker
from tests.support.projects import PROJECTS
from tests.support.waiting import wait_until
from workers.contract.errors import BrokerUnavailableError, ErrorInfo
from workers.contract.events import LINE, STATE, Event
from workers.contract.results import DbtResult
from workers.contract.settings import Settings
from workers.ledger.ledger import Claim

PROJECT = PROJECTS / "trial"
OnEvent = Callable[[Event], None]


class LeftError(Exception):
    """What a caller leaves with."""


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Ends the node ``a``."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, let_go: threading.Event) -> Iterator[FakeWorker]:
    def held(_: Claim) -> ErrorInfo | None:
        assert let_go.wait(30)
        return None

    with FakeWorker({"a": (), "b": ("a",)}, {"a": held}).at_work(monkeypatch) as worker:
        yield worker
        let_go.set()


def follow(on_event: OnEvent, **stack: Any) -> DbtResult:
    follower = Follower(Stack(broker_url="redis://nowhere:1/0", **stack), Settings())
    invocation = parse_invocation(["run", "--log-level-file", "none"], environ={}, cwd=PROJECT)
    return follower.run(invocation, cwd=PROJECT, environ={}, on_event=on_event)


def is_read(run_id: str) -> bool:
    """Whether this process has read every event of a run, and its record."""
    return not any(thread.name == f"events of {run_id}" for thread in threading.enumerate())


def test_a_caller_slower_than_the_run_gets_every_line_and_the_result(
    worker: FakeWorker, let_go: threading.Event
) -> None:
    """By the time that it handles the second event, Redis keeps nothing of the run."""
    let_go.set()
    lines: list[str] = []

    def slow(event: Event) -> None:
        if event.seq == 1:
            wait_until(lambda: is_read(event.run_id), 20, "the run to be read to its end")
            worker.redis().flushall()
        if event.kind == LINE:
            lines.append(event.text)

    result = follow(slow)
    assert (result.success, result.warnings, result.stderr) == (True, (), "")
    assert [node.name for node in result.nodes] == ["a", "b"]
    assert (lines[0], lines[-1]) == ("Found 2 models", "Done. TOTAL=2")
    assert result.stdout.splitlines() == lines


def test_a_caller_that_was_stopped_for_too_long_gets_the_result_and_a_warning(
    worker: FakeWorker, let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go.set()
    watch = RelayClient.watch

    def stopped(client: RelayClient, run_id: str, **options: Any) -> Iterator[Event]:
        wait_until(lambda: client.state(run_id) == "succeeded", 20)
        worker.redis().xtrim(client.store.keys.events(run_id), maxlen=4, approximate=False)
        return watch(client, run_id, **options)

    monkeypatch.setattr(RelayClient, "watch", stopped)
    result = follow(lambda _: None)
    assert result.success
    assert [node.name for node in result.nodes] == ["a", "b"]
    [warning] = result.warnings
    assert warning.startswith("events 1 to ")
    assert "are no longer kept" in warning
    assert result.stderr == warning


def when_a_runs(act: Callable[[], object]) -> OnEvent:
    def on_event(event: Event) -> None:
        if event.kind == STATE and event.node.endswith(".a") and event.state == "running":
            act()

    return on_event


def leave(*_: object) -> None:
    raise LeftError


def on_signal(number: int, send: Callable[[], object]) -> Callable[[], object]:
    """The caller's handler of a signal raises, while nothing is published."""

    def act() -> None:
        signal.signal(number, leave)
        threading.Timer(0.1, send).start()

    return act


LEAVING: dict[str, Callable[[], object]] = {
    "its callback raises": leave,
    "its alarm clock raises": on_signal(
        signal.SIGALRM, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
    ),
    "its own handler of Ctrl-C raises": on_signal(
        signal.SIGINT, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    ),
    "it exits": lambda: (_ for _ in ()).throw(SystemExit(3)),
}


@pytest.mark.parametrize("how", LEAVING)
def test_a_caller_that_leaves_with_an_exception_cancels_its_run(
    how: str, worker: FakeWorker, let_go: threading.Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)}
    try:
        if "Ctrl-C" in how:
            signal.signal(signal.SIGINT, leave)
        with pytest.raises((LeftError, SystemExit)) as caught:
            follow(when_a_runs(LEAVING[how]), runtime_dir=tmp_path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (run_id,) = worker.ledger.active_runs()
    assert worker.ledger.fact(run_id, "state") == "stopping"
    assert worker.ledger.fact(run_id, "stop") == f"its caller stopped with {caught.typename}"
    assert f"dbt-relay: run {run_id} was cancelled: its caller stopped with" in capsys.readouterr().err
    assert [file.stem for file in (tmp_path / "env").iterdir()] == [run_id]  # its workers read it still
    let_go.set()
    wait_until(lambda: worker.ledger.fact(run_id, "state") == "cancelled", 20)
    assert worker.ledger.active_runs() == []


def test_a_run_that_has_ended_is_not_said_to_be_cancelled(
    worker: FakeWorker, let_go: threading.Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go.set()

    def late(event: Event) -> None:
        if event.state == "succeeded":
            raise LeftError

    with pytest.raises(LeftError):
        follow(late, runtime_dir=tmp_path)
    assert capsys.readouterr().err == ""
    assert list((tmp_path / "env").iterdir()) == []


def test_a_signal_in_the_middle_of_the_submission_cancels_the_run(
    worker: FakeWorker, let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was recorded, and its caller has not learned it."""
    submit = RelayClient.submit

    def interrupted(client: RelayClient, request: Any) -> str:
        submit(client, request)
        raise LeftError

    monkeypatch.setattr(RelayClient, "submit", interrupted)
    with pytest.raises(LeftError):
        follow(lambda _: None)
    (run_id,) = worker.ledger.active_runs()
    assert worker.ledger.fact(run_id, "stop") == "its caller stopped with LeftError"


def test_a_cancel_that_does_not_get_through_is_said_with_what_to_do(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> bool:
        raise BrokerUnavailableError("Redis is away")

    monkeypatch.setattr(RelayClient, "cancel", away)
    with pytest.raises(LeftError):
        follow(when_a_runs(leave))
    (run_id,) = worker.ledger.active_runs()
    assert (
        f"could not be cancelled (Redis is away): `dbt-relay cancel {run_id}` stops it"
        in capsys.readouterr().err
    )


def test_a_server_that_is_away_when_the_run_has_ended_is_waited_for(
    worker: FakeWorker, let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go.set()
    record, fails = RelayClient.record, iter([True, True])

    def away(client: RelayClient, run_id: str) -> Any:
        if next(fails, False):
            raise BrokerUnavailableError("Redis is away")
        return record(client, run_id)

    monkeypatch.setattr(RelayClient, "record", away)
    assert follow(lambda _: None).success


def test_a_reader_that_is_stopped_ends(worker: FakeWorker) -> None:
    relay = RelayClient("redis://nowhere:1/0")
    with pytest.raises(LeftError):
        follow(when_a_runs(leave))
    (run_id,) = worker.ledger.active_runs()
    reader = EventReader(relay, run_id)
    with pytest.raises(LeftError):
        reader.follow(leave)
    reader.stop()
    wait_until(lambda: is_read(run_id), 10)
