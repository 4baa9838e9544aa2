"""Reads the workers' journals: which process executed which step when, and when it wrote to the warehouse.

The journal is written by `witness` and not by the ledger, so it can prove that the ledger is wrong.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

JOURNAL = "RELAY_CHAOS_JOURNAL"
"""Environment variable of workers with the folder of the journal."""


@dataclass
class Execution:
    """One process's attempt at one step. Times are seconds since the epoch, by the machine's clock.

    Attributes:
        entered: when the engine started the step.
        left: when the engine returned; None if it did not.
        how: ``ok``, or the class of the exception.
        answered: when the warehouse answered its statements.
        written: when its writes took effect in the warehouse: a commit, or a statement outside of a transaction.
        unanswered: whether it sent such a write and died before the answer.
        asked: when it called the ledger's claim; its lease started between that and `entered`.
    """

    run: str
    step: str
    attempt: int
    pid: int
    entered: float
    left: float | None = None
    how: str = ""
    answered: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    unanswered: bool = False
    asked: float | None = None

    def __str__(self) -> str:
        return f"{self.step} (attempt {self.attempt}, process {self.pid}, {self.how or 'never left'})"


class Absence(NamedTuple):
    """A time in which a process was stopped, or dead (until infinity)."""

    since: float
    until: float


class Journal:
    """Reads the journal of a run while workers write it. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: dict[Path, int] = {}
        self._executions: list[Execution] = []
        self._current: dict[int, Execution] = {}
        self._asked: dict[int, float] = {}
        self._lock = threading.Lock()

    def executions(self, run: str) -> list[Execution]:
        """All executions of a run so far, in order of their start."""
        with self._lock:
            self._read_new_lines()
            mine = [each for each in self._executions if each.run == run]
        return sorted(mine, key=lambda each: each.entered)

    def latest(self) -> str:
        """Id of the last submitted run that was executed."""
        with self._lock:
            self._read_new_lines()
            return max(each.run for each in self._executions)

    def _read_new_lines(self) -> None:
        for entry in os.scandir(self.folder):
            if entry.stat().st_size > self._offsets.get(Path(entry.path), 0):
                self._read(Path(entry.path))

    def _read(self, path: Path) -> None:
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read()
        whole, newline, _ = raw.rpartition(b"\n")
        self._offsets[path] = offset + len(whole) + len(newline)
        for line in whole.splitlines():
            self._add(json.loads(line))

    def _add(self, entry: dict[str, Any]) -> None:
        pid, at = entry["pid"], entry["at"]
        if entry["what"] == "asks":
            self._asked[pid] = at
            return
        if entry["what"] == "enter":
            asked = self._asked.pop(pid, None)
            execution = Execution(entry["run"], entry["step"], entry["attempt"], pid, at, asked=asked)
            self._executions.append(execution)
            self._current[pid] = execution
            return
        current = self._current.get(pid)
        if current is None:
            return  # between two steps, when connections are closed
        if entry["what"] == "sent":
            current.unanswered = entry["writes"]
        elif entry["what"] == "failed":
            current.unanswered = False
        elif entry["what"] == "ok":
            current.unanswered = False
            current.answered.append(at)
            if entry["writes"]:
                current.written.append(at)
        elif entry["what"] == "leave":
            current.left, current.how = at, entry["how"]
            del self._current[pid]


Absences = Mapping[int, Sequence[Absence]]


def at_once(executions: Sequence[Execution], absences: Absences, ended: float) -> list[str]:
    """Find steps that two running processes executed at the same time.

    A stopped process that continues may go on until it notices that it lost its step. That is not counted here:
    `written_late` finds its writes.
    """
    found = []
    for one, other in _pairs(executions):
        until = min(_end(one, absences, ended), _end(other, absences, ended))
        shared = until - max(one.entered, other.entered)
        if shared > 0:
            found.append(f"{one} and {other} for {shared * 1000:.0f} ms")
    return found


def written_late(executions: Sequence[Execution]) -> list[str]:
    """Find writes that took effect after another process had started to execute the same step in the warehouse."""
    found = []
    for one, other in _pairs(executions):
        if not other.answered:
            continue  # it never used the warehouse
        late = [at for at in one.written if at > other.answered[0]]
        if late:
            found.append(f"{one} wrote {(late[0] - other.answered[0]) * 1000:.0f} ms after {other} had begun")
    return found


def committed_twice(executions: Sequence[Execution]) -> set[str]:
    """Find steps that ran again after a commit, because their process died before it recorded the result."""
    by_step = defaultdict(list)
    for each in executions:
        by_step[each.step].append(each)
    return {
        step for step, tries in by_step.items() if any(each.written or each.unanswered for each in tries[:-1])
    }


def _pairs(executions: Sequence[Execution]) -> list[tuple[Execution, Execution]]:
    """Pairs of executions of the same step by different processes, the earlier first."""
    by_step = defaultdict(list)
    for each in executions:
        by_step[each.step].append(each)
    return [
        (one, other)
        for tries in by_step.values()
        for one, other in combinations(sorted(tries, key=lambda each: each.entered), 2)
        if one.pid != other.pid
    ]


def _end(execution: Execution, absences: Absences, ended: float) -> float:
    """When a process stopped executing a step: it returned, was stopped or died, or the trial ended.

    A process that was stopped between claim and start may have lost the step before it started.
    """
    left = ended if execution.left is None else execution.left
    claimed = execution.entered if execution.asked is None else execution.asked
    gone = [each.since for each in absences.get(execution.pid, ()) if each.until > claimed]
    return max(execution.entered, min([left, *gone]))
