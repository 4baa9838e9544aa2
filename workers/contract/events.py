"""The events of a run: dbt's lines and changes of state, as its event stream in Redis contains them.

Each entry of the stream, and each message of the run's pub/sub channel, is one `Event`. The stream id gives the order.
``seq`` numbers the entries of a run from 1 without gaps: a gap tells a reader that the capped stream was trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from workers.contract.keys import is_run_id

LINE: Final = "line"  # a line of dbt's console output
DEBUG: Final = "debug"  # a dbt event below console level, published with --debug only
STATE: Final = "state"  # a step changed state
RUN: Final = "run"  # the run changed state; the last entry of a stream has a terminal state
RECORD: Final = "record"  # a record of dbt's log file, in a stream of its own (`Keys.log`)

STDERR: Final = "stderr"
"""`Event.stream` of a line on stderr. Other lines are on stdout."""

REPEATED: Final = "repeated"
"""State of a step whose hooks or command may have been executed twice."""

MISSING: Final = "missing"
"""State of an event that a reader creates in place of trimmed events. It is never stored in Redis."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a run.

    Attributes:
        kind: `LINE`, `DEBUG`, `STATE` or `RUN`; within a worker also `RECORD`.
        run_id: the run.
        node: dbt's unique id (or an ``@`` step), or an empty string.
        text: the line as dbt prints it on the console, without its newline. In state ``waiting``: the run that
            writes the step's relation, or another reason. In states ``repeated`` and ``missing``: a warning.
        level: dbt's level: debug, info, warn, error.
        state: for `STATE` and `RUN`: the new state, or dbt's status of a finished step.
        attempt: number of the step's attempt, from 1.
        at: time of the event, seconds since the epoch, UTC, by the worker's clock.
        worker: the worker process, ``host:pid``.
        seq: position in the run, from 1; set when the event is read.
        stream: of a line: `STDERR`, or empty for stdout. Producers of older releases ignore it.
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
    """Return a sentence that says what a ``waiting`` step waits for.

    Args:
        step: the step; empty for the whole run.
        text: `Event.text`.
    """
    if text.startswith("waiting for "):
        return text
    reason = f"run {text} is writing its relation" if is_run_id(text) else text
    return f"{step or 'the run'} waits: {reason}"


_decoder = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """Encode an event as JSON."""
    return msgspec.json.encode(event)


def decode_event(raw: bytes | str, seq: int = 0) -> Event:
    """Decode an event from JSON.

    Args:
        raw: the JSON.
        seq: position in the run; 0 if unknown.

    Raises:
        msgspec.DecodeError: `raw` is not an event.
    """
    event = _decoder.decode(raw)
    return msgspec.structs.replace(event, seq=seq) if seq else event


def encode_records(records: Sequence[str]) -> bytes:
    """Encode records of the log file as JSON: the text of a `RECORD` event, and an entry of a run's log stream.

    The JSON is a list, so that `ledger/scripts/events.lua` can distinguish it from an event.
    """
    try:
        return msgspec.json.encode(records)
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        return msgspec.json.encode(
            [record.encode("utf-8", "backslashreplace").decode() for record in records]
        )


def join_records(encoded: Sequence[str]) -> bytes:
    """Join the texts of several `RECORD` events into one entry of a run's log stream."""
    return f"[{','.join(each[1:-1] for each in encoded)}]".encode()


def decode_records(raw: bytes) -> list[str]:
    """Decode an entry of a run's log stream.

    Raises:
        msgspec.DecodeError: `raw` is not such an entry.
    """
    return msgspec.json.decode(raw, type=list[str])
