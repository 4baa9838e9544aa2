"""Publishes events to Redis as they happen: in a capped stream for replay, and by pub/sub for live listeners.

A background thread sends the events of a few milliseconds in one call, so that a node that logs much does not wait
for Redis. A batch that has to be repeated adds nothing twice (`ledger/scripts/events.lua`). The events of a step are
sent before its result is stored (`flush`).

Records of dbt's log file (`RECORD`) are sent with the next batch of events, or alone after a quarter of a second.
There are some forty of them for each node, and a call for a few of them would cost more than they do.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque

import redis

from workers.contract.events import RECORD, Event, encode_event, join_records
from workers.contract.log import log
from workers.ledger.ledger import Ledger

GATHER_SECONDS = 0.01
"""For how long the sender collects events before it sends them."""

RECORD_SECONDS = 0.25
"""For how long log records wait for events to be sent with."""

RECORD_CHARACTERS = 64 * 1024
"""Of log records in one entry of the stream, about."""

MAX_BATCH = 500
"""Events in one call."""

MAX_EVENTS = 200_000
"""Events that wait at most while Redis is away. Further ones are dropped, so that memory does not run out."""

MAX_RECORDS = 20_000
"""Log records that wait at most."""


class Progress:
    """The publisher of one process. Safe to call from any thread.

    Attributes:
        dropped: how many events and records were not sent.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._events: deque[tuple[str, bytes]] = deque()
        self._records: deque[tuple[str, str]] = deque()
        self._changed = threading.Condition()
        self._sending = False
        self._asleep = True
        self._awaited = 0
        self._numbers: dict[str, int] = {}
        self._origin = secrets.token_hex(6)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def emit(self, event: Event) -> None:
        """Queue an event. It is on Redis some milliseconds later; a log record within `RECORD_SECONDS`."""
        if event.kind == RECORD:
            self._emit_record(event)
            return
        with self._changed:
            self._start()
            if len(self._events) >= MAX_EVENTS:
                self.dropped += 1
                return
            self._events.append((event.run_id, encode_event(event)))
            if len(self._events) == 1:  # a sender that is collecting needs no waking
                self._changed.notify_all()

    def _emit_record(self, event: Event) -> None:
        if len(self._records) >= MAX_RECORDS:
            self.dropped += 1
            return
        self._records.append((event.run_id, event.text))
        if self._asleep:  # otherwise the sender looks by itself; waking it costs more than that
            with self._changed:
                self._start()
                self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_forever, name="progress", daemon=True)
            self._thread.start()

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until every queued event is on Redis, for `timeout` seconds at most; whether all are."""
        with self._changed:
            self._awaited += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not (self._is_due() or self._sending), timeout)
            finally:
                self._awaited -= 1

    def _is_due(self) -> bool:
        return bool(self._events or self._records)

    def _send_forever(self) -> None:
        while True:
            with self._changed:
                self._wait()
                batch = self._next_batch()
                self._sending = True
            try:
                self._send(*batch)
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _wait(self) -> None:
        """Wait until something has to be sent."""
        # events are sent at once, records with them or when they have waited for a while
        while not self._changed.wait_for(self._is_sent_now, RECORD_SECONDS) and not self._records:
            # `_emit_record` reads this after it added a record, so it is set before the records are looked at
            self._asleep = True
            self._changed.wait_for(self._is_due)
            self._asleep = False
        if self._events:
            # a step that waits in `flush` ends the collecting
            self._changed.wait_for(lambda: self._awaited > 0, GATHER_SECONDS)

    def _is_sent_now(self) -> bool:
        return bool(self._events) or (self._awaited > 0 and bool(self._records))

    def _next_batch(self) -> tuple[str, list[bytes]]:
        run_id = (self._events or self._records)[0][0]
        bodies: list[bytes] = []
        while self._events and self._events[0][0] == run_id and len(bodies) < MAX_BATCH:
            bodies.append(self._events.popleft()[1])
        records: list[str] = []
        size = 0
        while self._records and self._records[0][0] == run_id and size < RECORD_CHARACTERS:
            records.append(self._records.popleft()[1])
            size += len(records[-1])
        if records:
            bodies.append(join_records(records))
        return run_id, bodies

    def _send(self, run_id: str, bodies: list[bytes]) -> None:
        first = self._numbers.get(run_id, 0) + 1
        while True:
            try:
                self._ledger.append_events(run_id, self._origin, first, bodies)
            except (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError):
                time.sleep(0.5)  # away (the client itself was patient) or full: events can wait
                continue
            except Exception as error:  # noqa: BLE001 - without this thread each step would wait for `flush`
                self.dropped += len(bodies)  # mostly of a run that is gone
                if not isinstance(error, redis.ResponseError):
                    log("lines dropped", phase="progress", error=str(error), exc_info=True)
            break
        self._numbers[run_id] = first + len(bodies) - 1
        if len(self._numbers) > 1000:
            self._numbers.pop(next(iter(self._numbers)))
