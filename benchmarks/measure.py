"""What every benchmark shares: ways measured in turn, the machine, what is wanted, and what was found."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "dbt-relay", "dbt-core", "dbt-adapters", "dbt-duckdb", "dbt-postgres", "duckdb", "psycopg2-binary",
    "celery", "kombu", "redis",
)  # fmt: skip

T = TypeVar("T")
Size = Literal["quick", "normal", "full"]
Cell = str | int | float | None


class Options(msgspec.Struct, frozen=True):
    """How a benchmark is run.

    Attributes:
        size: ``quick`` is a look at whether everything still works: its figures mean nothing.
        folder: an empty folder that is removed afterwards.
    """

    size: Size
    folder: Path

    def pick(self, quick: T, normal: T, full: T | None = None) -> T:
        """The value for this size; `full` is as `normal` where it is not given."""
        return quick if self.size == "quick" else full if self.size == "full" and full is not None else normal


class Target(msgspec.Struct):
    """What is wanted of a figure, and whether it is so.

    Attributes:
        key: of `limits.yml`, where a person says what limits the figure now.
        what: the figure in words, with its conditions.
        wanted, measured: in `unit`; None was not measured.
        least: `wanted` is the least that will do, and not the most.
        met: None where nothing was measured.
        limited_by: filled in from `limits.yml` where it is empty.
    """

    key: str
    what: str
    wanted: float
    measured: float | None
    unit: str = ""
    least: bool = False
    met: bool | None = None
    limited_by: str = ""

    def __post_init__(self) -> None:
        if self.measured is not None:
            self.met = self.measured >= self.wanted if self.least else self.measured <= self.wanted


def at_most(key: str, what: str, wanted: float, measured: float | None, unit: str = "") -> Target:
    """A figure that may not be larger. A ratio has the unit ``""``."""
    return Target(key, what, wanted, measured, unit)


def at_least(key: str, what: str, wanted: float, measured: float | None, unit: str = "") -> Target:
    """A figure that may not be smaller."""
    return Target(key, what, wanted, measured, unit, least=True)


class Table(msgspec.Struct):
    """Rows for people."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class Plot(msgspec.Struct):
    """What is drawn as ``NAME.svg``.

    Attributes:
        x: numbers of a line plot, or the names of groups of bars.
        series: a value for each of `x`; None is left out.
        log: the axes that are logarithmic: ``""``, ``"x"``, ``"y"``, ``"xy"``.
        kind: lines over numbers, or groups of bars.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    x: list[float | str]
    series: dict[str, list[float | None]]
    kind: Literal["lines", "bars"] = "lines"
    log: Literal["", "x", "y", "xy"] = ""


class Outcome(msgspec.Struct):
    """What a benchmark found.

    Attributes:
        notes: what a reader must know to judge the figures, and which side failed where.
        data: whatever else is worth keeping: every single time, for instance.
        name, command, size, seconds, at, machine: filled in by the frame. Seconds of wall; `at` in UTC.
        error: why there is nothing else.
    """

    title: str
    tables: list[Table] = msgspec.field(default_factory=list)
    plots: list[Plot] = msgspec.field(default_factory=list)
    targets: list[Target] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    name: str = ""
    command: str = ""
    size: str = ""
    seconds: float = 0.0
    at: str = ""
    machine: dict[str, Any] = msgspec.field(default_factory=dict)
    error: str | None = None


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    warm: int = 1,
    failed: dict[str, str] | None = None,
) -> dict[str, list[float]]:
    """Wall seconds of each way, all of them in turn in every round.

    What disturbs the machine then disturbs all of them, and each round begins with another, so that none always
    follows the same one.

    Args:
        ways: what to measure, by name.
        rounds: how often each is measured.
        warm: how often each is done before that.
        failed: where given, takes the reason of a way that raised; it is left out from then on. Otherwise what
            a way raises is raised.

    Returns:
        Seconds of each round by name; fewer for a way that failed.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-warm, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if failed and name in failed:
                continue
            began = time.perf_counter()
            try:
                ways[name]()
            except Exception as error:
                if failed is None:
                    raise
                failed[name] = failure(error)
                continue
            if number >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def failure(error: BaseException) -> str:
    """An error in a line, with the end of what a process said."""
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stdout or b"") + (error.stderr or b"")
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return f"{error.cmd[0]} ended with {error.returncode}: {text.strip()[-600:]}"
    return f"{type(error).__name__}: {error}"


def machine() -> dict[str, Any]:
    """What is measured on: hardware, load, versions, commit."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2),
        **{name: _version(name) for name in PACKAGES},
        "postgres": _postgres(),
        "server": _server(),
    }


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether figures of both stand side by side: all but the load and our own commit."""
    varies = ("load", "commit", "dbt-relay")
    return {k: v for k, v in one.items() if k not in varies} == {
        k: v for k, v in other.items() if k not in varies
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _said(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _commit() -> str:
    commit = _said("git", "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _said("git", "status", "--porcelain", "--", "producer", "workers", "benchmarks/*.py")
    return f"{commit}, changed" if changed else commit


def _cpu() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _postgres() -> str:
    from tests.support.postgres_server import NoPostgresError, server_programs

    try:
        return _said(server_programs() / "postgres", "--version") or "unknown"
    except NoPostgresError:
        return "not installed"


def _server() -> str:
    from tests.support.redis_server import NoServerError, server_program

    try:
        return _said(server_program(), "--version").split(" sha=")[0] or "unknown"
    except NoServerError:
        return "not installed"
