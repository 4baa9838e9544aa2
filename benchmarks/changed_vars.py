"""Changed vars: time from submit to the first node's start when one value changes; plain dbt parses again.

The project is `simulated_project`: 120 models, 870 tests, 139 vars of nested JSON that three quarters of the models read.
Our side is a real warm worker, timed at a watcher; plain dbt is timed until it logs that the first node starts. A
second table has the CPU of the engine alone: a full parse, a var set that is not in memory yet, and the same vars.
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

import msgspec

from benchmarks.measure import Options, Outcome, Plot, Table, at_most
from benchmarks.sides import COMMAND, DBT, INSIDE, RELAY, Inside, dbt_environment, inside
from benchmarks.simulated_project import write_project, write_small_project
from benchmarks.stacks import Stack, stack, succeeded
from producer.runner import DbtRunner
from tests.support.engine import Shared, spec_for
from workers.contract.events import STATE, Event
from workers.engine.engine import Engine

MODEL = "m001"
SAME, FEW, MANY, CONFIG, ENABLED, PROJECT_ENABLED, PROJECT_SCHEMA = (
    "the same vars", "a value that two or three models write", "a value that 3/4 of the models write",
    "a value in the config() of three models", "a value that enables tests and a model",
    "a value by which dbt_project.yml enables a tenth of the models", "a value in the schema of a tenth of the models",
)  # fmt: skip


def changes(number: int) -> dict[str, dict[str, Any]]:
    """Kind of change → vars that differ from the round before."""
    return {
        SAME: {},
        FEW: {"assumption_003": number + 0.5},
        MANY: {"simulation_year": 2026 + number},
        CONFIG: {"alias_suffix": f"b{number}"},
        ENABLED: {"with_checks": 1 - number % 2},
        PROJECT_ENABLED: {"with_last": number % 2},
        PROJECT_SCHEMA: {"last_schema": f"s{number}"},
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
    values = write_project(options.folder / "project", models, tests, project_reads=True)
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
    cpu = engine_cpu(options.folder, models, tests, options.pick(1, 3, 7))
    changed = [kind for kind in median if kind != SAME]
    worst = max(median[kind][RELAY] for kind in changed)
    reparse = min(median[kind][COMMAND] for kind in changed)
    return Outcome(
        "A changed var set",
        tables=[
            Table("Seconds until the first node starts", ["what changed", *ways],
                  [["(nothing parsed yet)", *whole.values()], *([kind, *of.values()] for kind, of in median.items())]),
            Table("The engine's part: seconds of CPU until the run is planned",
                  ["project and change", "full parse", "changed var set", "the same vars", "full parse : changed : same"],
                  [[case, *of.values(), _ratio(*of.values())] for case, of in cpu.items()]),
        ],
        plots=[Plot("changed_vars", "One value of 139 vars changes", "", "seconds until the first node starts",
                    list(median), {way: [of[way] for of in median.values()] for way in ways}, "bars")],
        targets=[at_most("changed-vars", f"changed var set, {models} models, {tests} tests: first node starts, at worst "
                         f"(`dbt run`: {reparse:.1f} s at best)", 1.0, worst, "s")],
        notes=[f"{models} models, {tests} tests, 139 vars, a DuckDB file; {rounds} rounds of each change."],
        data={"seconds": times, "engine CPU": cpu},
    )  # fmt: skip


class Case(msgspec.Struct, frozen=True):
    """A project whose vars change in each round.

    Attributes:
        change: returns the vars of a round that differ from `values`.
        select: the model that is run.
    """

    project: Path
    values: Mapping[str, Any]
    change: Callable[[int], Mapping[str, Any]]
    select: str = MODEL


def engine_cpu(folder: Path, models: int, tests: int, rounds: int) -> dict[str, dict[str, float]]:
    """Measure median CPU seconds until a run is planned, by case, with an engine in this process.

    Each round has new vars. It measures each case with a new engine, with the engine that parsed the project with the
    vars of the round before, and with the latter once more.
    """
    small = write_small_project(folder / "small", 300)
    plain, reading = folder / "plain", folder / "reading"
    values = write_project(plain, models, tests)
    write_project(reading, models, tests, project_reads=True)
    of_models, of_tests = f"{models} models", f"{tests} tests"
    cases = {
        "300 small models, one logs the var": Case(small, {}, lambda n: {"y": n}, "m000"),
        f"{of_models}, {of_tests}: the year changes": Case(
            plain, values, lambda n: {"simulation_year": 2026 + n}
        ),
        f"{of_models}, {of_tests}: +schema of a tenth changes": Case(
            reading, values, lambda n: {"last_schema": f"s{n}"}
        ),
        f"{of_models}, {of_tests}: a tenth of the models and some tests are enabled or disabled": Case(
            reading, values, lambda n: {"with_last": n % 2, "with_checks": 1 - n % 2, "not_read": n}
        ),
    }
    engines = {case: Engine(Shared()) for case in cases}
    found: dict[str, dict[str, list[float]]] = {case: {} for case in cases}
    for number in range(-1, rounds):  # the round -1 parses each project
        for name, case in cases.items():
            now = {**case.values, **case.change(number)}
            ways = {
                "full parse": (Engine(Shared()), ["--no-partial-parse"]),
                "changed": (engines[name], []),
                "same": (engines[name], []),
            }
            for way, (engine, more) in ways.items():
                took = _planned(engine, case.project, now, case.select, *more)
                if number >= 0:
                    found[name].setdefault(way, []).append(took)
    return {name: {way: statistics.median(each) for way, each in of.items()} for name, of in found.items()}


def _ratio(full: float, changed: float, same: float) -> str:
    return f"{full / same:.1f} : {changed / same:.1f} : 1"


def _planned(engine: Engine, project: Path, values: Mapping[str, Any], select: str, *more: str) -> float:
    spec = spec_for(
        project, *arguments(values, select), *more, env={"DATABASE_PATH": str(project / "x.duckdb")}
    )
    began = time.process_time()
    engine.plan(spec, lambda _: None)
    took = time.process_time() - began
    engine.forget(spec.run_id)
    return took
