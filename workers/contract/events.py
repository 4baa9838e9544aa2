"""What progress looks like: the entries of a run's event stream.

Each entry of the stream (and each message of the pub/sub channel of the same run) is one `Event`.
Redis orders them: the stream id is the position. ``seq`` counts the entries of a run from 1 without
a gap, so a watcher of the capped stream can tell when older entries were trimmed.
"""

from __future__ import annotations

from typing import Final

import msgspec

LINE: Final = "line"  # a line of dbt's console output
DEBUG: Final = "debug"  # a dbt event below console level, published with --debug only
STATE: Final = "state"  # a step changed state
RUN: Final = "run"  # the run changed state; the last entry of a stream is a terminal one

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
        kind: `LINE`, `DEBUG`, `STATE` or `RUN`.
        run_id: of which run.
        node: dbt's unique id (or an ``@`` step), or an empty string.
        text: the line, without its newline, as dbt would print it on the console; of a node that is
            ``waiting``: the run that writes its relation, and of an ``@`` step what it waits for; of a step that
            was ``repeated``, and of events that are ``missing``: a warning.
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


def waiting_for(event: Event) -> str:
    """What a step that is ``waiting`` waits for."""
    if event.node.startswith("@"):
        return event.text
    return f"{event.node} waits: run {event.text} is writing its relation"


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
