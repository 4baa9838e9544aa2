"""One model, warm: from submit to result, on projects of 20 to 1,000 models, and with ``--full`` of 5,000, which take
minutes to parse.

Ways, in turn:

- ours: ``DbtRunner.execute_command`` on one warm worker process
- ``dbt run --select`` as a process, with a warm partial parse
- ``dbtRunner`` in a persistent process, with a warm partial parse
- ``dbtRunner(manifest=)`` in the same process, with the manifest in memory and no artifacts written

Then the time of our way by part of the engine (`benchmarks.one_model_parts`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.inside import inside
from benchmarks.measure import (
    ROOT,
    Cell,
    Options,
    Outcome,
    Plot,
    Table,
    Target,
    at_least,
    at_most,
    interleaved,
)
from benchmarks.one_model_parts import rows_of
from benchmarks.projects import Copy, environment, nothing, tree, write
from benchmarks.stacks import Stack, stack, succeeded
from benchmarks.warehouses import Warehouse, warehouses

OURS, COMMAND, INSIDE, HELD = "dbt-relay", "dbt run --select", "dbtRunner", "dbtRunner(manifest=)"
Parts = dict[str, dict[str, float]]


def bench(options: Options) -> Outcome:
    """Run the benchmark; see the module's docstring."""
    outcome = Outcome(title="One model, warm")
    times: dict[str, dict[int, dict[str, list[float]]]] = {}
    parts: dict[str, Parts] = {}
    with (
        warehouses(options.folder / "warehouses", outcome.notes) as places,
        stack(1) as workers,
    ):
        for place in places:
            times[place.name] = {}
            sizes = options.pick(
                (20, 60), (20, 200, 1000) if place.name == "DuckDB" else (20, 1000), (20, 200, 1000, 5000)
            )
            for models in sizes:
                name = f"{place.name.lower()}_{models}"
                found, ours = measure(options, place, models, name, workers, outcome.notes)
                times[place.name][models] = found
                print(
                    name,
                    {way: f"{statistics.median(each):.3f} s" for way, each in found.items() if each},
                    flush=True,
                )
                if models == sizes[0]:
                    parts[place.name] = parts_of(ours, models - 1, options.pick(3, 20))
    outcome.tables = [*(milliseconds(name, by_size) for name, by_size in times.items()),
                      *(share(name, each) for name, each in parts.items())]  # fmt: skip
    outcome.plots = [plot(name, by_size) for name, by_size in times.items()]
    outcome.targets = targets(times, parts)
    outcome.notes.append(
        "Models of one row. `dbtRunner` and `dbtRunner(manifest=)` run in a process that stays and keeps its connection; "
        "the latter holds the manifest and writes no artifacts. Ours is measured more often than the others."
    )
    outcome.data = {"seconds": times, "parts": parts}
    return outcome


def measure(
    options: Options, place: Warehouse, models: int, name: str, workers: Stack, notes: list[str]
) -> tuple[dict[str, list[float]], Copy]:
    """Measure the last model of a project. Returns seconds by way, and our copy of the project."""
    arguments = ["run", "--select", f"m_{models - 1}"]
    copies = [copy_of(options.folder, place, models, f"{name}_{side}") for side in ("ours", "dbt", "inside")]
    ours, theirs, inner = copies
    runner = workers.runner(ours.folder)

    def execute() -> None:
        succeeded(runner.execute_command(arguments, stream_output=False))

    with inside(inner.folder, arguments, environment()) as within:
        ways: dict[str, Callable[[], object]] = {
            OURS: execute,
            COMMAND: lambda: theirs.dbt(*arguments),
            INSIDE: within["dbtRunner"],
            HELD: within["manifest"],
        }
        failed: dict[str, str] = {}

        def warm_up(*names: str) -> None:
            interleaved({way: ways[way] for way in names}, rounds=0, failed=failed)

        with ThreadPoolExecutor() as pool:  # each parses
            list(pool.map(lambda names: warm_up(*names), ((OURS,), (COMMAND,), (INSIDE, HELD))))
        rounds = options.pick(1, 7 if models <= 20 else 5 if models <= 200 else 3 if models <= 1000 else 2)
        found = interleaved(ways, rounds, warm=int(models <= 200), failed=failed)
        if OURS in failed:
            raise RuntimeError(f"{name}: {failed[OURS]}")
        found[OURS] += interleaved({OURS: execute}, options.pick(2, 12))[OURS]
    notes += [f"**{way} failed** with {models} models on {place.name}: {why}" for way, why in failed.items()]
    return found, ours


def copy_of(folder: Path, place: Warehouse, models: int, name: str) -> Copy:
    """Write a project whose relations exist, as after a build."""
    copy = write(folder / name, tree(models), place, name, nothing)
    made = [f"create table m_{each} as select {each} as id, 'm{each}' as value" for each in range(models)]
    for first in range(0, models, _TABLES_PER_TRANSACTION):
        place.execute(name, made[first : first + _TABLES_PER_TRANSACTION])
    return copy


_TABLES_PER_TRANSACTION = 1000
"""Limited because Postgres holds a lock for each table."""


def parts_of(copy: Copy, model: int, rounds: int) -> Parts:
    """Run `benchmarks.one_model_parts` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.one_model_parts", copy.folder, f"m_{model}", "--json"]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    found: Parts = json.loads(done.stdout.splitlines()[-1])
    return found


def median(found: dict[str, list[float]], way: str) -> float | None:
    """Median milliseconds of a way; None if it failed."""
    return statistics.median(found[way]) * 1000 if found.get(way) else None


def milliseconds(name: str, by_size: dict[int, dict[str, list[float]]]) -> Table:
    """Table of each way by size of the project."""
    ways = list(next(iter(by_size.values())))
    rows: list[list[Cell]] = []
    for models, found in by_size.items():
        ours, command = median(found, OURS), median(found, COMMAND)
        times = command / ours if ours and command else None
        rows.append([models, *(median(found, way) for way in ways), times])
    return Table(
        f"{name}: milliseconds from submit to result", ["models", *ways, "dbt run ÷ dbt-relay"], rows
    )


def share(name: str, parts: Parts) -> Table:
    """Table of the engine's time by part."""
    rows: list[list[Cell]] = [[part, row["cpu"], row["wall"]] for part, row in rows_of(parts).items()]
    return Table(
        f"{name}: the engine's part of it, smallest project, milliseconds", ["part", "CPU", "wall"], rows
    )


def plot(name: str, by_size: dict[int, dict[str, list[float]]]) -> Plot:
    """Plot of seconds by number of models."""
    ways: Sequence[str] = (COMMAND, INSIDE, HELD, OURS)
    series: dict[str, list[float | None]] = {
        way: [None if (ms := median(found, way)) is None else ms / 1000 for found in by_size.values()]
        for way in ways
    }
    return Plot(
        f"one-model-{name.lower()}", f"One model of a project on {name}, warm", "models in the project", "seconds",
        list(by_size), series, log="xy",
    )  # fmt: skip


def targets(times: dict[str, Any], parts: dict[str, Parts]) -> list[Target]:
    """The targets of this benchmark."""
    out = []
    for name, by_size in times.items():
        least, most = min(by_size), max(by_size)
        ours, command, large = (
            median(by_size[least], OURS),
            median(by_size[least], COMMAND),
            median(by_size[most], OURS),
        )
        key = f"one-{name.lower()}"
        here = f"one model, warm, {least} models, {name}"
        if name == "DuckDB":
            out.append(at_most(f"{key}-wall", f"{here}: submit to result", 60, ours, "ms"))
        out += [
            at_least(f"{key}-times", f"{here}: times faster than `dbt run --select`", 40, command / ours if ours and command else None),
            at_most(f"{key}-growth", f"one model, warm, {name}: {most:,} models ÷ {least} models", 1.3, large / ours if ours and large else None),
            at_most(f"{key}-own", f"{here}: our own share, all but dbt's node runner", 12,
                    ours - parts[name]["dbt's runner"]["wall"] if ours else None, "ms"),
        ]  # fmt: skip
    return out
