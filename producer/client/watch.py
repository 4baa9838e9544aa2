"""Watching a run: reads its event stream in Redis until the run has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from producer.client.broker_errors import BrokerErrors
from producer.client.results import no_such_run
from workers.contract.errors import BrokerUnavailableError
from workers.contract.events import MISSING, RUN, STATE, Event, decode_event
from workers.contract.redis_values import number_of
from workers.contract.results import RUN_TERMINAL
from workers.contract.run_store import RunStore

BLOCK_MS = 2000
"""Milliseconds that one read of a stream waits for entries."""

Entries = list[tuple[bytes, dict[bytes, bytes]]]
"""Entries of a Redis stream: id and fields."""


class Watch:
    """Reads the events of one run."""

    def __init__(self, store: RunStore, broker_url: str, run_id: str, *, away: float) -> None:
        """
        Args:
            broker_url: for error texts.
            away: seconds for which the watch goes on while Redis cannot be reached.
        """
        self._store, self._broker_url, self._run_id, self._away = store, broker_url, run_id, away

    def events(
        self, *, from_start: bool, timeout: float | None, on_idle: Callable[[], None] | None
    ) -> Iterator[Event]:
        """Yield each event in order; see `RelayClient.watch`."""
        with BrokerErrors(self._broker_url):
            if self._store.fact(self._run_id, "state") is None:
                raise no_such_run(self._run_id)
            position = b"0" if from_start else self._last_id()
        deadline = None if timeout is None else time.monotonic() + timeout
        expected = 1 if from_start else 0
        for entries in self._batches(position):
            for fields in entries:
                event = _decoded(fields)
                if event is None:  # not written by dbt-relay: it has no sequence number
                    continue
                if expected and event.seq > expected:
                    yield _gap(self._run_id, expected, event.seq - 1)
                expected = event.seq + 1
                yield event
                if event.kind == RUN and event.state in RUN_TERMINAL:
                    return
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self._run_id} did not end in {timeout:.0f} s")
            if not entries and on_idle is not None:
                on_idle()

    def _last_id(self) -> bytes:
        """The id of the newest entry. ``$`` would mean another entry in each read, and lose those between two reads."""
        newest: Any = self._store.client.xrevrange(self._store.keys.events(self._run_id), count=1)
        return bytes(newest[0][0]) if newest else b"0"

    def _batches(self, position: bytes) -> Iterator[list[dict[bytes, bytes]]]:
        """Yield the fields of new entries; an empty list after each read without any. Ends where the run has ended
        and its stream holds nothing more."""
        last_answer = time.monotonic()
        while True:
            try:
                entries = self._read(position)
                last_answer = time.monotonic()
            except BrokerUnavailableError:
                if time.monotonic() - last_answer > self._away:
                    raise
                entries = []
            if entries is None:
                return
            if entries:
                position = entries[-1][0]
            yield [fields for _, fields in entries]

    def _read(self, position: bytes) -> Entries | None:
        """Wait up to `BLOCK_MS` for entries after `position`; None where the run has ended and there are none."""
        with BrokerErrors(self._broker_url):
            answer: Any = self._store.client.xread(
                {self._store.keys.events(self._run_id): position}, count=1000, block=BLOCK_MS
            )
            state = None if answer else self._store.fact(self._run_id, "state")
        if answer:
            return list(answer[0][1])
        return None if state is None or state in RUN_TERMINAL else []


def _decoded(fields: Mapping[bytes, bytes]) -> Event | None:
    try:
        return decode_event(fields.get(b"e", b""), seq=int(number_of(fields.get(b"s"))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _gap(run_id: str, first: int, last: int) -> Event:
    text = (
        f"events {first} to {last} of run {run_id} are no longer kept, and lines with them: the run published more "
        "than Redis holds before they were read. Its result is complete"
    )
    return Event(kind=STATE, run_id=run_id, state=MISSING, text=text, level="warn", seq=last)
