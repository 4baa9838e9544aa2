"""What progress looks like: the entries of a run's event stream.

Each entry of the stream (and each message of the pub/sub channel of the same run) is one `Event`.
Redis orders them: the stream id is the position. ``seq`` counts the entries of a run from 1 without
a gap, so a watcher of the capped stream can tell when older entries were trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from workers.contract.keys import is_run_id

LINE: Final = "line"  # a line of dbt's console output
DEBUG: Final = "debug"  # a dbt event below console level, published with --debug only
STATE: Final = "state"  # a step changed state
RUN: Final = "run"  # the run changed state; the last entry of a stream is a terminal one
RECORD: Final = "record"  # of dbt's log file; travels in a stream of its own (`names.Keys.log`)

STDERR: Final = "stderr"
"""The stream of a line that was written there; other lines are stdout's."""

REPEATED: Final = "repeated"
"""State of a step whose hooks, or whose command, may have been executed twice."""

MISSING: Final = "missing"
"""State of an event that a watcher makes itself, and that is never in Redis: it stands for events that are no longer
kept."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry.

    Attributes:
        kind: `LINE`, `DEBUG`, `STATE` or `RUN`; within a worker also `RECORD`.
        run_id: of which run.
        node: dbt's unique id (or an ``@`` step), or an empty string.
        text: the line, without its newline, as dbt would print it on the console; of a step that is
            ``waiting``: the run that writes its relation, or what else it waits for; of a step that was
            ``repeated``, and of events that are ``missing``: a warning.
        level: dbt's: debug, info, warn, error.
        state: for `STATE` and `RUN`: the new state, or dbt's status once done.
        attempt: which attempt of the node, from 1.
        at: when it was said, seconds since the epoch, UTC, by the worker's clock.
        worker: who said it, ``host:pid``.
        seq: position in the run, from 1; set when it is read back.
        stream: of a line: empty for stdout, `STDERR` for what the step's code wrote on stderr. A producer of an
            older release ignores it.
    """

    kind: str
    run_id: str
    node: str = ""
    text: str = ""
    level: str = "info"
    state: str = ""
    attempt: int = 0
    at: float = 0.0
    worker: str = ""
    seq: int = 0
    stream: str = ""


def waiting_for(step: str, text: str) -> str:
    """What a step that is ``waiting`` waits for, from its name and the text of the event."""
    if text.startswith("waiting for "):
        return text
    reason = f"run {text} is writing its relation" if is_run_id(text) else text
    return f"{step or 'the run'} waits: {reason}"


_decoder = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """JSON of an event."""
    return msgspec.json.encode(event)


def decode_event(raw: bytes | str, seq: int = 0) -> Event:
    """An event from its JSON, with its position in the run.

    Raises:
        msgspec.DecodeError: not an event.
    """
    event = _decoder.decode(raw)
    return msgspec.structs.replace(event, seq=seq) if seq else event


def encode_records(records: Sequence[str]) -> bytes:
    """JSON of records of the log file: the text of a `RECORD`, and an entry of a run's log stream. It is a list, by
    which `ledger/scripts/events.lua` tells it from an event."""
    try:
        return msgspec.json.encode(records)
    except UnicodeEncodeError:  # a lone surrogate, which no UTF-8 file can hold
        return msgspec.json.encode(
            [record.encode("utf-8", "backslashreplace").decode() for record in records]
        )


def join_records(encoded: Sequence[str]) -> bytes:
    """One entry of a run's log stream of the texts of several `RECORD` events."""
    return f"[{','.join(each[1:-1] for each in encoded)}]".encode()


def decode_records(raw: bytes) -> list[str]:
    """The records of an entry of a run's log stream.

    Raises:
        msgspec.DecodeError: not such an entry.
    """
    return msgspec.json.decode(raw, type=list[str])
