"""Progress: events reach Redis in order, in batches, and once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from tests.support.waiting import wait_until
from workers.contract.events import LINE, RECORD, Event, decode_event, decode_records, encode_records
from workers.runs import progress as module
from workers.runs.progress import Progress

RUN = "20250101T000000-0123456789ab"


class Recorder:
    """A ledger that records its calls. It raises `errors`, one for each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int, list[str]]] = []
        self.sizes: list[int] = []
        self.records: list[str] = []
        self.errors: list[Exception] = []
        self.open = threading.Event()
        self.open.set()

    def append_events(self, run_id: str, publisher: str, first: int, bodies: Sequence[bytes]) -> int:
        self.open.wait(10)
        self.sizes.append(len(bodies))
        self.records += [each for body in bodies if body.startswith(b"[") for each in decode_records(body)]
        events = [body for body in bodies if not body.startswith(b"[")]
        self.calls.append((run_id, publisher, first, [decode_event(body).text for body in events]))
        if self.errors:
            raise self.errors.pop(0)
        return len(bodies)


@pytest.fixture
def ledger() -> Recorder:
    return Recorder()


@pytest.fixture
def progress(ledger: Recorder) -> Progress:
    made: Any = Progress(ledger)  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def emit_lines(progress: Progress, *texts: object, run_id: str = RUN) -> None:
    for text in texts:
        progress.emit(Event(kind=LINE, run_id=run_id, text=str(text)))


def test_events_arrive_in_order_with_their_numbers(ledger: Recorder, progress: Progress) -> None:
    emit_lines(progress, *range(1200))
    assert progress.flush(10)
    assert [text for call in ledger.calls for text in call[3]] == [str(number) for number in range(1200)]
    expected = 1
    for _, _, first, texts in ledger.calls:
        assert first == expected
        assert len(texts) <= module.MAX_BATCH
        expected += len(texts)
    assert len({publisher for _, publisher, _, _ in ledger.calls}) == 1


def test_events_of_two_runs_are_not_mixed(ledger: Recorder, progress: Progress) -> None:
    other = "20250101T000000-ba9876543210"
    ledger.open.clear()
    emit_lines(progress, "a", "b")
    emit_lines(progress, "c", run_id=other)
    emit_lines(progress, "d")
    ledger.open.set()
    assert progress.flush(10)
    sent = {run: [t for r, _, _, texts in ledger.calls if r == run for t in texts] for run in (RUN, other)}
    assert sent == {RUN: ["a", "b", "d"], other: ["c"]}
    assert [first for run, _, first, _ in ledger.calls if run == RUN][-1] == 3


@pytest.mark.parametrize("error", [redis.ConnectionError("away"), redis.TimeoutError("late")])
def test_batch_is_repeated_unchanged_after_a_connection_error(
    ledger: Recorder, progress: Progress, error: Exception
) -> None:
    ledger.errors = [error]
    emit_lines(progress, "a")
    assert progress.flush(10)
    assert len(ledger.calls) == 2
    assert ledger.calls[0] == ledger.calls[1]
    assert progress.dropped == 0


@pytest.mark.parametrize("error", [redis.ResponseError("no such run"), TypeError("not foreseen")])
def test_refused_batch_is_dropped_and_later_ones_are_sent(
    ledger: Recorder, progress: Progress, error: Exception
) -> None:
    ledger.errors = [error]
    emit_lines(progress, "a")
    assert progress.flush(10)
    assert progress.dropped == 1
    emit_lines(progress, "b")
    assert progress.flush(10)
    assert ledger.calls[-1][3] == ["b"]


def test_events_are_dropped_past_their_maximum_while_redis_is_away(
    ledger: Recorder, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 10)
    ledger.open.clear()
    emit_lines(progress, *range(100))
    assert not progress.flush(0.05)
    ledger.open.set()
    assert progress.flush(10)
    assert progress.dropped >= 80
    assert sum(len(texts) for *_, texts in ledger.calls) == 100 - progress.dropped


def test_flush_without_events_returns_at_once(progress: Progress) -> None:
    assert progress.flush(0)


def test_log_records_are_sent_with_the_next_events(ledger: Recorder, progress: Progress) -> None:
    emit_records(progress, "one", "two")
    emit_lines(progress, "a")
    emit_records(progress, "three")
    assert progress.flush(10)
    assert [text for call in ledger.calls for text in call[3]].count("a") == 1
    assert ledger.records == ["one", "two", "three"]
    assert_numbered(ledger)


def test_log_records_without_events_are_sent_alone(ledger: Recorder, progress: Progress) -> None:
    emit_records(progress, "one")
    wait_until(lambda: ledger.records == ["one"], 10)
    emit_records(progress, "two")  # the sender looks by itself, or sleeps again
    wait_until(lambda: ledger.records == ["one", "two"], 10)
    time.sleep(2 * module.RECORD_SECONDS)  # now it does sleep
    emit_records(progress, "three")
    wait_until(lambda: ledger.records == ["one", "two", "three"], 10)


def test_log_records_of_two_runs_are_not_mixed(ledger: Recorder, progress: Progress) -> None:
    other = "20250101T000000-ba9876543210"
    ledger.open.clear()
    emit_records(progress, "a")
    emit_records(progress, "b", run_id=other)
    emit_records(progress, "c")
    ledger.open.set()
    assert progress.flush(10)
    assert ledger.records == ["a", "b", "c"]
    assert {run for run, *_ in ledger.calls} == {RUN, other}


def emit_records(progress: Progress, *texts: str, run_id: str = RUN) -> None:
    for text in texts:
        progress.emit(Event(kind=RECORD, run_id=run_id, text=encode_records([text]).decode()))


def assert_numbered(ledger: Recorder) -> None:
    """Each batch goes on where the last one of its run ended, records counted too."""
    expected = 1
    for _, _, first, _ in ledger.calls:
        assert first == expected
        expected += ledger.sizes.pop(0)
