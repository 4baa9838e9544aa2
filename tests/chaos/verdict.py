"""Verdicts of trials, recorded as JSON lines, from which an interrupted series continues."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.chaos.faults import Struck
from tests.chaos.journal import Execution


class Recovery(msgspec.Struct, frozen=True):
    """Delay of a run by a fault: until each interrupted step ran again, or, after an outage of Redis or lost messages,
    until the next step started."""

    fault: str
    seconds: float


class Verdict(msgspec.Struct, kw_only=True):
    """Result of a trial. Times in seconds.

    Attributes:
        missed: faults that did not strike before the run ended.
        differences: differences from an undisturbed run, and broken guarantees. Empty: the trial passed.
        repeated: steps that ran again after a commit, because their result had not been recorded.
        producers: number of producers that followed the run.
        lines_lost: console lines of an undisturbed run that are missing.
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
    """Delays by a fault; empty if it did not delay the run."""
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
    """Read the recorded verdicts."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Verdict) for line in path.read_bytes().splitlines()]


def append_line(path: Path, verdict: Verdict) -> None:
    """Record a verdict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(verdict) + b"\n")
        os.fsync(file.fileno())
