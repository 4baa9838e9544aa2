"""A whole project: ``dbt build`` with 1, 4 and 8 threads, compared with warm worker processes.

Plain dbt is a process with a warm partial parse; ours is timed from submit to result. Each side has its own copy of
the project and part of the warehouse, which are built once before the measurement. Afterwards relations and statuses of
both sides must be equal.

- *small*: tables of one row, which measure dbt's overhead.
- *busy*: each model computes for 0.2 to 2 s, on one core on Postgres, on all cores on DuckDB. Compared with plain dbt
  with the same number of threads, and with the fastest number. On a DuckDB file one node runs at a time.
- *waiting*: each model sleeps for as long in Postgres, like a query in a remote warehouse.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Cell, Options, Outcome, Plot, Table, Target, at_most, failure, interleaved
from benchmarks.projects import SHAPES, Copy, nothing, write
from benchmarks.stacks import Stack, stack, statuses_of
from benchmarks.warehouses import Warehouse, relations, units_per_second, warehouses

NOTES = (
    "Ours is from submit to result with the workers up; plain dbt includes its start-up, with a warm partial parse.",
    (
        "*small*: tables of one row. *busy*: 0.2 to 2 s of SQL a model that compute, on one core each on Postgres "
        "(`generate_series`) and on all of them on DuckDB (the scan of a table), so that the cores limit both sides. "
        "*waiting*: each model sleeps as long in the warehouse. dbt-relay executes one node of a DuckDB file at once."
    ),
)


def theirs_with(threads: int) -> str:
    """Name of the way."""
    return f"dbt --threads {threads}"


def ours_with(processes: int) -> str:
    """Name of the way."""
    return f"dbt-relay, {processes} process{'es' if processes > 1 else ''}"


def is_ours(way: str) -> bool:
    """Whether the way is dbt-relay."""
    return way.startswith("dbt-relay")


@dataclass(frozen=True)
class Case:
    """A project and the ways to build it.

    Attributes:
        kind: ``small``, ``busy``, ``waiting``.
        threads: of plain dbt; each is a way.
        processes: of dbt-relay; each is a way.
    """

    warehouse: Warehouse
    shape: str
    models: int
    rounds: int
    kind: str = "small"
    threads: tuple[int, ...] = (1, 4, 8)
    processes: tuple[int, ...] = (1, 2)

    @property
    def title(self) -> str:
        """Display name."""
        return f"{self.warehouse.name}, {self.models} {self.kind}, {self.shape}"


@dataclass
class Found:
    """Seconds by way, and differences between the sides."""

    case: Case
    times: dict[str, list[float]]
    differs: list[str] = field(default_factory=list)

    def median(self, way: str) -> float | None:
        """Median seconds of a way; None if it was not measured."""
        return statistics.median(self.times[way]) if self.times.get(way) else None

    @property
    def dbt(self) -> float:
        """Median seconds of plain dbt's fastest way."""
        return min(statistics.median(took) for way, took in self.times.items() if not is_ours(way))

    def ratio(self, way: str, beside: str | None = None) -> float | None:
        """Ratio of a way to another, or to plain dbt's fastest way."""
        ours, theirs = self.median(way), self.median(beside) if beside else self.dbt
        return ours / theirs if ours and theirs else None


def bench(options: Options) -> Outcome:
    """Run the benchmark; see the module's docstring."""
    found: list[Found] = []
    wrong: list[str] = []
    outcome = Outcome(title="Whole project", notes=[*NOTES])
    with contextlib.ExitStack() as opened:
        places = opened.enter_context(warehouses(options.folder / "warehouses", outcome.notes))
        cases = [case for place in places for case in of_warehouse(place, options)]
        numbers = sorted({number for case in cases for number in case.processes})
        stacks = {number: opened.enter_context(stack(number)) for number in numbers}
        for number, case in enumerate(cases):
            try:
                one = measure(case, f"c{number}", options, stacks)
            except Exception as error:  # noqa: BLE001 - recorded, and the other cases go on
                wrong.append(f"{case.title}: {failure(error)}")
                continue
            found.append(one)
            print(
                case.title,
                {way: round(statistics.median(took), 2) for way, took in one.times.items()},
                flush=True,
            )
    outcome.tables, outcome.plots, outcome.targets = [table(found)], plots(found), targets(found)
    wrong += [
        f"{each.case.title}, not the same on both sides: {each.differs}" for each in found if each.differs
    ]
    outcome.error = "; ".join(wrong) or None
    if not wrong:
        outcome.notes.append("Both sides left the same relations and statuses in every case.")
    outcome.data = {each.case.title: each.times for each in found}
    return outcome


def of_warehouse(place: Warehouse, options: Options) -> list[Case]:
    """The cases of a warehouse."""
    threads = options.pick((4,), (1, 4, 8))
    processes = (1, 2, 4) if (os.cpu_count() or 1) >= 4 else (1, 2)
    cases = [
        Case(place, "layered", models, options.pick(1, 2, 3), threads=threads, processes=processes)
        for models in options.pick((8,), (50, 200), (50, 200, 1000))
    ]
    if options.size != "quick":
        cases += [
            Case(place, shape, 50, options.pick(1, 1, 3), threads=threads, processes=processes)
            for shape in ("wide", "deep", "diamond")
        ]
    real, at_once = options.pick(3, 16, 50), 1 if place.name == "DuckDB" else 2
    threads = options.pick((at_once,), (1, 2, 4, 8))
    cases.append(Case(place, "layered", real, 1, "busy", threads, (at_once,)))
    if place.name == "Postgres":
        cases.append(Case(place, "layered", 2 * real, 1, "waiting", options.pick((4,), (4, 8)), (4,)))
    return cases


def measure(case: Case, name: str, options: Options, stacks: dict[int, Stack]) -> Found:
    """Measure one case by all of its ways."""
    theirs, ours = copies(case, options.folder / name, name)
    found = Found(case, {})
    warm(case, theirs, ours, stacks)
    expected = theirs.statuses()

    def by_dbt(threads: int) -> Callable[[], None]:
        def build() -> None:
            theirs.dbt("build", "--threads", str(threads))
            expected.clear()
            expected.update(theirs.statuses())

        return build

    def by_us(processes: int) -> Callable[[], None]:
        at_once = 4 if case.kind == "small" else processes

        def build() -> None:
            actual = statuses_of(stacks[processes].run(ours, "build", threads=at_once))
            if actual != expected:
                found.differs.append(f"statuses: {sorted(set(actual.items()) ^ set(expected.items()))[:5]}")

        return build

    ways = {theirs_with(threads): by_dbt(threads) for threads in case.threads}
    ways |= {ours_with(processes): by_us(processes) for processes in case.processes}
    found.times = interleaved(ways, case.rounds, warm=0)
    left, there = relations(case.warehouse, ours.name), relations(case.warehouse, theirs.name)
    if left != there or len(left) != case.models:
        found.differs.append(f"{len(left)} relations, plain dbt {len(there)}: {sorted(left ^ there)[:5]}")
    return found


def copies(case: Case, folder: Path, name: str) -> list[Copy]:
    """Write the project for plain dbt and for dbt-relay."""
    seconds = seconds_of(case)
    rate = units_per_second(case.warehouse) if case.kind == "busy" else 0.0

    def column(number: int) -> str:
        if case.kind == "busy":
            return f"({case.warehouse.busy(round(rate * seconds[number]))})"
        if case.kind == "waiting":
            return f"(select 1 from (select pg_sleep({seconds[number]:.3f})) as slept)"
        return nothing(number)

    out = []
    for side in ("dbt", "ours"):
        graph = SHAPES[case.shape](case.models)
        out.append(write(folder / side, graph, case.warehouse, f"{name}_{side}", column))
        if case.kind == "busy":
            case.warehouse.prepare(out[-1].name, round(rate * max(seconds)))
    return out


def warm(case: Case, theirs: Copy, ours: Copy, stacks: dict[int, Stack]) -> None:
    """Parse the project on both sides and build it (of slow models only three), so that later builds replace relations."""
    first = () if case.kind == "small" else ("--select", "m_0", "m_1", "m_2")
    theirs.dbt("build", *first)
    for processes in case.processes:
        for _ in range(2):  # so that every process parses or loads the project
            stacks[processes].run(ours, "build", *first)


def seconds_of(case: Case) -> list[float]:
    """Seconds of SQL of each model: 0.2 to 2, with a median of 0.63."""
    chance = random.Random(case.models)
    return [0.2 * 10 ** chance.random() for _ in range(case.models)]


def table(found: list[Found]) -> Table:
    """Table of seconds, and of ratios to plain dbt's fastest way."""
    threads = sorted({number for each in found for number in each.case.threads})
    ours = [ours_with(each) for each in sorted({number for one in found for number in one.case.processes})]
    ways = [*map(theirs_with, threads), *ours]
    rows: list[list[Cell]] = [
        [each.case.title, *(each.median(way) for way in ways), *(each.ratio(way) for way in ours)]
        for each in found
    ]
    ratios = [f"{way} ÷ best of dbt" for way in ours]
    return Table("Seconds of wall, medians", ["project", *ways, *ratios], rows)


def plots(found: list[Found]) -> list[Plot]:
    """A plot of small models for each warehouse."""
    out = []
    for name in sorted({each.case.warehouse.name for each in found if each.case.kind == "small"}):
        shown = [each for each in found if each.case.warehouse.name == name and each.case.kind == "small"]
        out.append(
            Plot(
                f"whole-project-{name.lower()}", f"dbt build of small models on {name}", "", "seconds, less is better",
                [f"{each.case.models}, {each.case.shape}" for each in shown],
                {way: [each.median(way) for each in shown] for way in shown[0].times}, kind="bars",
            )
        )  # fmt: skip
    return out


def targets(found: list[Found]) -> list[Target]:
    """The targets of this benchmark."""
    layered = {
        (each.case.warehouse.name, each.case.kind, each.case.models if each.case.kind == "small" else 0): each
        for each in found
        if each.case.shape == "layered"
    }

    def ratio(name: str, kind: str, models: int, processes: int, threads: int = 0) -> float | None:
        case = layered.get((name, kind, models))
        return case.ratio(ours_with(processes), theirs_with(threads) if threads else None) if case else None

    shapes = [each for each in found if each.case.kind == "small" and each.case.warehouse.name == "DuckDB"]
    worst = [value for each in shapes for way in each.times if is_ours(way) and (value := each.ratio(way))]
    real = "models of 0.2 to 2 s of SQL"
    same = "dbt build with as many threads"
    best = "best of dbt build"
    return [
        at_most("whole-postgres", f"200 small models on Postgres, 2 worker processes ÷ {best}", 0.40,
                ratio("Postgres", "small", 200, 2)),
        at_most("whole-duckdb", f"200 small models on one DuckDB file, 1 worker process ÷ {best}", 0.75,
                ratio("DuckDB", "small", 200, 1)),
        at_most("whole-duckdb-shapes", f"small models on one DuckDB file, the worst of all shapes ÷ {best}", 1.0,
                max(worst, default=None)),
        at_most("whole-postgres-busy", f"{real} that computes on Postgres, 2 worker processes ÷ {same}", 1.0,
                ratio("Postgres", "busy", 0, 2, 2)),
        at_most("whole-postgres-waiting", f"{real} that waits on Postgres, 4 worker processes ÷ {same}", 1.0,
                ratio("Postgres", "waiting", 0, 4, 4)),
        at_most("whole-duckdb-busy", f"{real} that computes on one DuckDB file, 1 worker process ÷ {same}", 1.0,
                ratio("DuckDB", "busy", 0, 1, 1)),
        at_most("whole-duckdb-busy-best", f"{real} that computes on one DuckDB file, 1 worker process ÷ {best}", 1.0,
                ratio("DuckDB", "busy", 0, 1)),
    ]  # fmt: skip
