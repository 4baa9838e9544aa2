"""Following a run: callers slower than the run, and callers that stop with an exception."""

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
from workers.ledger.records import Claim

PROJECT = PROJECTS / "trial"
OnEvent = Callable[[Event], None]


class CallerError(Exception):
    """The exception of a caller that stops."""


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set it to end the node ``a``."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> Iterator[FakeWorker]:
    def blocked(_: Claim) -> ErrorInfo | None:
        assert release.wait(30)
        return None

    with FakeWorker({"a": (), "b": ("a",)}, {"a": blocked}).running(monkeypatch) as worker:
        yield worker
        release.set()


def follow(on_event: OnEvent, **stack: Any) -> DbtResult:
    follower = Follower(Stack(broker_url="redis://nowhere:1/0", **stack), Settings())
    invocation = parse_invocation(["run", "--log-level-file", "none"], environ={}, cwd=PROJECT)
    return follower.run(invocation, cwd=PROJECT, environ={}, on_event=on_event)


def reader_has_ended(run_id: str) -> bool:
    """Whether the thread that reads the run's events and record has ended."""
    return not any(thread.name == f"events of {run_id}" for thread in threading.enumerate())


def test_slow_caller_gets_every_line_and_the_result(worker: FakeWorker, release: threading.Event) -> None:
    """The run is deleted from Redis before the caller handles the second event."""
    release.set()
    lines: list[str] = []

    def slow(event: Event) -> None:
        if event.seq == 1:
            wait_until(lambda: reader_has_ended(event.run_id), 20, "the run to be read to its end")
            worker.redis().flushall()
        if event.kind == LINE:
            lines.append(event.text)

    result = follow(slow)
    assert (result.success, result.warnings, result.stderr) == (True, (), "")
    assert [node.name for node in result.nodes] == ["a", "b"]
    assert (lines[0], lines[-1]) == ("Found 2 models", "Done. TOTAL=2")
    assert result.stdout.splitlines() == lines


def test_caller_that_missed_trimmed_events_gets_the_result_and_a_warning(
    worker: FakeWorker, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.set()
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


def stop_caller(*_: object) -> None:
    raise CallerError


def on_signal(number: int, send: Callable[[], object]) -> Callable[[], object]:
    """Send a signal, whose handler raises, while the run publishes no events."""

    def act() -> None:
        signal.signal(number, stop_caller)
        threading.Timer(0.1, send).start()

    return act


LEAVING: dict[str, Callable[[], object]] = {
    "its callback raises": stop_caller,
    "its alarm clock raises": on_signal(
        signal.SIGALRM, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
    ),
    "its own handler of Ctrl-C raises": on_signal(
        signal.SIGINT, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    ),
    "it exits": lambda: (_ for _ in ()).throw(SystemExit(3)),
}


@pytest.mark.parametrize("how", LEAVING)
def test_caller_that_stops_with_an_exception_cancels_its_run(
    how: str, worker: FakeWorker, release: threading.Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)}
    try:
        if "Ctrl-C" in how:
            signal.signal(signal.SIGINT, stop_caller)
        with pytest.raises((CallerError, SystemExit)) as caught:
            follow(when_a_runs(LEAVING[how]), runtime_dir=tmp_path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (run_id,) = worker.ledger.active_runs()
    assert worker.ledger.fact(run_id, "state") == "stopping"
    assert worker.ledger.fact(run_id, "stop") == f"its caller stopped with {caught.typename}"
    assert f"dbt-relay: run {run_id} was cancelled: its caller stopped with" in capsys.readouterr().err
    assert [file.stem for file in (tmp_path / "env").iterdir()] == [run_id]  # the workers still need it
    release.set()
    wait_until(lambda: worker.ledger.fact(run_id, "state") == "cancelled", 20)
    assert worker.ledger.active_runs() == []


def test_no_cancel_message_for_a_run_that_has_ended(
    worker: FakeWorker, release: threading.Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.set()

    def late(event: Event) -> None:
        if event.state == "succeeded":
            raise CallerError

    with pytest.raises(CallerError):
        follow(late, runtime_dir=tmp_path)
    assert capsys.readouterr().err == ""
    assert list((tmp_path / "env").iterdir()) == []


def test_exception_during_submission_cancels_the_run(
    worker: FakeWorker, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is recorded, but `submit` has not returned its id."""
    submit = RelayClient.submit

    def interrupted(client: RelayClient, request: Any) -> str:
        submit(client, request)
        raise CallerError

    monkeypatch.setattr(RelayClient, "submit", interrupted)
    with pytest.raises(CallerError):
        follow(lambda _: None)
    (run_id,) = worker.ledger.active_runs()
    assert worker.ledger.fact(run_id, "stop") == "its caller stopped with CallerError"


def test_failed_cancellation_is_reported_with_the_command_to_use(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> bool:
        raise BrokerUnavailableError("Redis is away")

    monkeypatch.setattr(RelayClient, "cancel", away)
    with pytest.raises(CallerError):
        follow(when_a_runs(stop_caller))
    (run_id,) = worker.ledger.active_runs()
    assert (
        f"could not be cancelled (Redis is away): `dbt-relay cancel {run_id}` stops it"
        in capsys.readouterr().err
    )


def test_final_record_is_read_again_while_redis_is_unreachable(
    worker: FakeWorker, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.set()
    record, fails = RelayClient.record, iter([True, True])

    def away(client: RelayClient, run_id: str) -> Any:
        if next(fails, False):
            raise BrokerUnavailableError("Redis is away")
        return record(client, run_id)

    monkeypatch.setattr(RelayClient, "record", away)
    assert follow(lambda _: None).success


def test_stopped_reader_ends_its_thread(worker: FakeWorker) -> None:
    relay = RelayClient("redis://nowhere:1/0")
    with pytest.raises(CallerError):
        follow(when_a_runs(stop_caller))
    (run_id,) = worker.ledger.active_runs()
    reader = EventReader(relay, run_id)
    with pytest.raises(CallerError):
        reader.follow(stop_caller)
    reader.stop()
    wait_until(lambda: reader_has_ended(run_id), 10)
