"""Events to Redis as they happen: a capped stream for replay, pub/sub for live listeners.

Events are sent by a thread of their own, a few milliseconds' worth in one call, so that a node that
says much does not wait for Redis. A batch that has to be repeated adds nothing twice
(`ledger/scripts/events.lua`); what is not yet sent when a step finishes is sent before its result is stored.

Records of dbt's log file (`RECORD`) are sent with the next batch of events, or by themselves after a
quarter of a second: there are some forty of them for each node, and a call for each few would cost more
than they do.
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
RECORD_SECONDS = 0.25
RECORD_CHARACTERS = 64 * 1024
"""Of log records in one entry of the stream, about."""

MAX_BATCH = 500
MAX_HELD = 200_000
MAX_RECORDS_HELD = 20_000


class Progress:
    """The publisher of one process. Safe to call from any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: deque[tuple[str, bytes]] = deque()
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
        """Hand an event over. It is on Redis some milliseconds later; a record of the log file, soon."""
        if event.kind == RECORD:
            self._emit_record(event)
            return
        with self._changed:
            self._start()
            if len(self._held) >= MAX_HELD:  # Redis is away and a node will not stop talking
                self.dropped += 1
                return
            self._held.append((event.run_id, encode_event(event)))
            if len(self._held) == 1:  # while the sender gathers it needs no waking
                self._changed.notify_all()

    def _emit_record(self, event: Event) -> None:
        if len(self._records) >= MAX_RECORDS_HELD:
            self.dropped += 1
            return
        self._records.append((event.run_id, event.text))
        if self._asleep:  # else the sender looks by itself, and taking turns with it costs more than this
            with self._changed:
                self._start()
                self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
            self._thread.start()

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything that was handed over is on Redis; whether it is, in `timeout` seconds."""
        with self._changed:
            self._awaited += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not (self._is_due() or self._sending), timeout)
            finally:
                self._awaited -= 1

    def _is_due(self) -> bool:
        return bool(self._held or self._records)

    def _work(self) -> None:
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
        """Return when it is time to send something."""
        # events are sent at once, records with them or when they have waited for a while
        while not self._changed.wait_for(self._is_sent_now, RECORD_SECONDS) and not self._records:
            # `_emit_record` reads this after it added a record, so it is set before the records are looked at
            self._asleep = True
            self._changed.wait_for(self._is_due)
            self._asleep = False
        if self._held:
            # a step that waits for its lines to be on Redis ends the gathering
            self._changed.wait_for(lambda: self._awaited > 0, GATHER_SECONDS)

    def _is_sent_now(self) -> bool:
        return bool(self._held) or (self._awaited > 0 and bool(self._records))

    def _next_batch(self) -> tuple[str, list[bytes]]:
        run_id = (self._held or self._records)[0][0]
        bodies: list[bytes] = []
        while self._held and self._held[0][0] == run_id and len(bodies) < MAX_BATCH:
            bodies.append(self._held.popleft()[1])
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
                time.sleep(0.5)  # away (the client itself was patient) or full: lines can wait
                continue
            except Exception as error:  # noqa: BLE001 - without this thread each step would wait for `flush`
                self.dropped += len(bodies)  # of a run that is gone, mostly: lines are not results
                if not isinstance(error, redis.ResponseError):
                    log("lines dropped", phase="progress", error=str(error), exc_info=True)
            break
        self._numbers[run_id] = first + len(bodies) - 1
        if len(self._numbers) > 1000:
            self._numbers.pop(next(iter(self._numbers)))
