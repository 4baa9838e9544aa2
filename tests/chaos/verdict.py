"""What a trial showed: as a line of JSON, so that a series that was interrupted goes on from there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.chaos.faults import Struck
from tests.chaos.journal import Execution


class Recovery(msgspec.Struct, frozen=True):
    """How long a fault held a run up: until each step that it interrupted ran again elsewhere, or, where it took
    Redis or messages away, until the next step began."""

    fault: str
    seconds: float


class Verdict(msgspec.Struct, kw_only=True):
    """What a trial showed. Times in seconds.

    Attributes:
        missed: faults whose moment did not come before the run ended.
        differences: what is not as in an undisturbed run, or not as promised. None: the trial was passed.
        repeated: steps that ran again although they had committed, for their result had not been recorded.
        producers: how many it took to see the run through.
        lines_lost: lines of the console that an undisturbed run has.
    """

    seed: int
    scenario: str
    lease: float
    faults: list[str]
    missed: list[str]
    seconds: float
    steps: int
    executions: int
    recoveries: list[Recovery]
    repeated: list[str]
    producers: int
    lines_lost: list[str]
    differences: list[str]


def recoveries(struck: Struck, executions: Sequence[Execution]) -> list[Recovery]:
    """How long a fault held the run up; nothing where it did not."""
    name = struck.drawn.name
    if struck.at is None:
        return []
    if struck.interrupted:
        again = [
            min((each.entered for each in executions if each.step == lost.step and each.entered > lost.entered),
                default=None)
            for lost in struck.interrupted
        ]  # fmt: skip
        return [Recovery(name, at - struck.at) for at in again if at is not None]
    since = struck.over or struck.at
    later = [each.entered for each in executions if each.entered > since]
    if struck.over is None and not name.startswith(("messages", "close", "connections")):
        return []
    return [Recovery(name, min(later) - since)] if later else []


def read_lines(path: Path) -> list[Verdict]:
    """Verdicts that were recorded."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Verdict) for line in path.read_bytes().splitlines()]


def append_line(path: Path, verdict: Verdict) -> None:
    """Record a verdict, so that an interrupted series goes on from there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(verdict) + b"\n")
        os.fsync(file.fileno())
