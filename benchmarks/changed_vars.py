"""Changed vars: time from submit to the first node's start when one value changes; plain dbt parses again.

The project is `simulated_project`: 120 models, 870 tests, 139 vars of nested JSON that three quarters of the models read.
Our side is a real warm worker, timed at a watcher; plain dbt is timed until it logs that the first node starts. A
second table has the CPU of the engine alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Options, Outcome, Plot, Table, at_most
from benchmarks.sides import COMMAND, DBT, INSIDE, RELAY, Inside, dbt_environment, inside
from benchmarks.simulated_project import write_project
from benchmarks.stacks import Stack, stack, succeeded
from producer.runner import DbtRunner
from tests.support.engine import Shared, spec_for
from workers.contract.events import STATE, Event
from workers.engine.engine import Engine

MODEL = "m001"
SAME, FEW, MANY, CONFIG, ENABLED = (
    "the same vars", "a value that two or three models write", "a value that 3/4 of the models write",
    "a value in the config() of three models", "a value that enables tests and a model",
)  # fmt: skip


def changes(number: int) -> dict[str, dict[str, Any]]:
    """Kind of change → vars that differ from the round before."""
    return {
        SAME: {},
        FEW: {"assumption_003": number + 0.5},
        MANY: {"simulation_year": 2026 + number},
        CONFIG: {"alias_suffix": f"b{number}"},
        ENABLED: {"with_checks": 1 - number % 2},
    }


def arguments(values: Mapping[str, Any], select: str = MODEL) -> list[str]:
    """Arguments of a run of a model with vars."""
    return ["run", "--select", select, "--vars", json.dumps(values)]


def by_process(folder: Path) -> Callable[[list[str]], float]:
    """Return a function that measures seconds until a ``dbt`` process logs that the first node starts."""

    def first_node(args: list[str]) -> float:
        began, at = time.perf_counter(), 0.0
        with subprocess.Popen(
            [DBT, *args], cwd=folder, env=dbt_environment(folder / "x.duckdb"), stdout=subprocess.PIPE
        ) as dbt:
            assert dbt.stdout is not None
            lines = []
            for line in dbt.stdout:
                lines.append(line.decode(errors="replace"))
                if not at and b" START " in line:
                    at = time.perf_counter()
        if dbt.returncode or not at:
            raise RuntimeError(f"dbt {args[:3]} ended with {dbt.returncode}: {''.join(lines)[-600:]}")
        return at - began

    return first_node


def by_runner(runner: Inside) -> Callable[[list[str]], float]:
    """Return a function that measures seconds until dbtRunner's event that the first node starts."""

    def first_node(args: list[str]) -> float:
        began = time.time()
        runner(args)
        return runner.began - began

    return first_node


def by_relay(workers: Stack, folder: Path) -> Callable[[list[str]], float]:
    """Return a function that measures seconds from submit to a watcher's event that the first node is running."""
    at: list[float] = []

    def on_event(event: Event) -> None:
        if event.kind == STATE and event.state == "running" and event.node.startswith("model."):
            at.append(time.perf_counter())

    runner = DbtRunner(
        folder,
        threads=None,
        broker_url=workers.server.broker_url,
        environ=dbt_environment(folder / "x.duckdb"),
        on_event=on_event,
    )

    def first_node(args: list[str]) -> float:
        at.clear()
        began = time.perf_counter()
        succeeded(runner.execute_command(args, stream_output=False))
        return at[0] - began

    return first_node


def bench(options: Options) -> Outcome:
    """Measure seconds until the first node starts, by kind of change."""
    models, tests = options.pick((24, 60), (120, 870))
    rounds = options.pick(1, 3, 7)
    values = write_project(options.folder / "project", models, tests)
    copies = {
        way: Path(shutil.copytree(options.folder / "project", options.folder / way))
        for way in (COMMAND, INSIDE, RELAY)
    }
    with stack(1) as workers, inside(copies[INSIDE], copies[INSIDE] / "x.duckdb") as runner:
        ways = {
            COMMAND: by_process(copies[COMMAND]), INSIDE: by_runner(runner), RELAY: by_relay(workers, copies[RELAY]),
        }  # fmt: skip
        whole = {way: work(arguments(values, f"+{MODEL}")) for way, work in ways.items()}
        times: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds):
            for kind, change in changes(number).items():
                values = values | change
                for way, work in ways.items():
                    times.setdefault(kind, {}).setdefault(way, []).append(work(arguments(values)))
    median = {kind: {way: statistics.median(each) for way, each in of.items()} for kind, of in times.items()}
    cpu = engine_cpu(options.folder / "project", values, rounds)
    changed = [kind for kind in median if kind != SAME]
    worst = max(median[kind][RELAY] for kind in changed)
    reparse = min(median[kind][COMMAND] for kind in changed)
    return Outcome(
        "A changed var set",
        tables=[
            Table("Seconds until the first node starts", ["what changed", *ways],
                  [["(nothing parsed yet)", *whole.values()], *([kind, *of.values()] for kind, of in median.items())]),
            Table("The engine's part: seconds of CPU until the run is planned", ["what changed", "CPU"],
                  [[kind, took] for kind, took in cpu.items()]),
        ],
        plots=[Plot("changed_vars", "One value of 139 vars changes", "", "seconds until the first node starts",
                    list(median), {way: [of[way] for of in median.values()] for way in ways}, "bars")],
        targets=[at_most("changed-vars", f"changed var set, {models} models, {tests} tests: first node starts, at worst "
                         f"(`dbt run`: {reparse:.1f} s at best)", 1.0, worst, "s")],
        notes=[f"{models} models, {tests} tests, 139 vars, a DuckDB file; {rounds} rounds of each change."],
        data={"seconds": times, "engine CPU": cpu},
    )  # fmt: skip


def engine_cpu(project: Path, values: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Median CPU seconds of an engine in this process, with shared contexts in memory."""
    engine = Engine(Shared())
    found: dict[str, list[float]] = {"(nothing parsed yet)": [_planned(engine, project, values)]}
    for number in range(rounds):
        for kind, change in changes(number + rounds).items():
            values = {**values, **change}
            found.setdefault(kind, []).append(_planned(engine, project, values))
    return {kind: statistics.median(each) for kind, each in found.items()}


def _planned(engine: Engine, project: Path, values: Mapping[str, Any]) -> float:
    spec = spec_for(project, *arguments(values))
    began = time.process_time()
    engine.plan(spec, lambda _: None)
    took = time.process_time() - began
    engine.forget(spec.run_id)
    return took
