"""Shared code of the benchmarks: measuring ways in turn, the machine, targets and results."""

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
    """Options of a benchmark.

    Attributes:
        size: ``quick`` only checks that the benchmark works: its figures mean nothing.
        folder: an empty folder, removed afterwards.
    """

    size: Size
    folder: Path

    def pick(self, quick: T, normal: T, full: T | None = None) -> T:
        """Return the value for this size; `full` defaults to `normal`."""
        return quick if self.size == "quick" else full if self.size == "full" and full is not None else normal


class Target(msgspec.Struct):
    """A target for a figure, and whether it is met.

    Attributes:
        key: key in `limits.yml`, which says what limits the figure.
        what: description of the figure with its conditions.
        wanted, measured: in `unit`; None if not measured.
        least: whether `wanted` is a minimum and not a maximum.
        met: None if not measured.
        limited_by: taken from `limits.yml` where it is empty.
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
    """A target that is a maximum. A ratio has the unit ``""``."""
    return Target(key, what, wanted, measured, unit)


def at_least(key: str, what: str, wanted: float, measured: float | None, unit: str = "") -> Target:
    """A target that is a minimum."""
    return Target(key, what, wanted, measured, unit, least=True)


class Table(msgspec.Struct):
    """A table of RESULTS.md."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class Plot(msgspec.Struct):
    """A plot, written as ``NAME.svg``.

    Attributes:
        x: numbers of a line plot, or names of groups of bars.
        series: name → a value for each of `x`; None is not drawn.
        log: logarithmic axes: ``""``, ``"x"``, ``"y"``, ``"xy"``.
        kind: lines, or groups of bars.
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
    """Result of a benchmark.

    Attributes:
        notes: conditions of the figures, and which side failed where.
        data: raw data, such as every measured time.
        name, command, size, seconds, at, machine: set by `benchmarks.__main__`. Wall seconds; `at` in UTC.
        error: why the benchmark failed.
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
    """Measure wall seconds of several ways, in turn in every round.

    So load on the machine affects all of them. Each round starts with another way, so that the order varies.

    Args:
        ways: functions to measure, by name.
        rounds: number of measured rounds.
        warm: number of rounds before that.
        failed: receives the error of a way that raised; that way is skipped from then on. None: errors are
            raised.

    Returns:
        seconds of each round by name; fewer for a way that failed.
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
    """Describe an error in a line, with the end of a process' output."""
    if isinstance(error, subprocess.CalledProcessError):
        output = (error.stdout or b"") + (error.stderr or b"")
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return f"{error.cmd[0]} ended with {error.returncode}: {text.strip()[-600:]}"
    return f"{type(error).__name__}: {error}"


def machine() -> dict[str, Any]:
    """Description of the machine: hardware, load, versions, commit."""
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
    """Whether figures of two machines are comparable: equal but for load, commit and our version."""
    varies = ("load", "commit", "dbt-relay")
    return {k: v for k, v in one.items() if k not in varies} == {
        k: v for k, v in other.items() if k not in varies
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _output_of(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _commit() -> str:
    commit = _output_of("git", "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _output_of("git", "status", "--porcelain", "--", "producer", "workers", "benchmarks/*.py")
    return f"{commit}, changed" if changed else commit


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _postgres() -> str:
    from tests.support.postgres_server import NoPostgresError, server_programs

    try:
        return _output_of(server_programs() / "postgres", "--version") or "unknown"
    except NoPostgresError:
        return "not installed"


def _server() -> str:
    from tests.support.redis_server import NoServerError, server_program

    try:
        return _output_of(server_program(), "--version").split(" sha=")[0] or "unknown"
    except NoServerError:
        return "not installed"
