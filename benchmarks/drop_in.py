"""The drop-in command: ``dbt-relay run --select m`` on a warm stack, compared with ``dbt run --select m``."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Options, Outcome, Table, at_least, at_most, interleaved
from benchmarks.sides import COMMAND, DBT, RELAY, as_command, database, dbt_environment, demonstration
from benchmarks.stacks import stack

BIN = Path(sys.executable).parent
MODEL = ("run", "--select", "stg_census")


def bench(options: Options) -> Outcome:
    """Measure wall time and CPU of the two processes."""
    project = demonstration(options.folder / "project")
    database_of = {way: database(options.folder, way) for way in (COMMAND, RELAY)}
    copies = {way: Path(shutil.copytree(project, options.folder / way)) for way in database_of}
    for way, copy in copies.items():
        as_command(copy, database_of[way])(["seed"])
    cpu: dict[str, list[float]] = {}
    with stack(1) as workers:
        environ = {
            way: {**dbt_environment(file), "DBT_RELAY_BROKER_URL": workers.server.broker_url}
            for way, file in database_of.items()
        }

        def way(name: str, program: Path) -> Callable[[], None]:
            def call() -> None:
                before = _children()
                subprocess.run(
                    [program, *MODEL], cwd=copies[name], env=environ[name], check=True, capture_output=True
                )
                cpu.setdefault(name, []).append(_children() - before)

            return call

        rounds = options.pick(2, 9, 25)
        ways = {COMMAND: way(COMMAND, DBT), RELAY: way(RELAY, BIN / "dbt-relay")}
        times = interleaved(ways, rounds, warm=2)
    median = {name: statistics.median(took) for name, took in times.items()}
    return Outcome(
        "The drop-in command",
        tables=[
            Table(
                "`run --select stg_census` on the demonstration: a process, from its start to its end",
                ["program", "seconds", "least", "most", "CPU of the process"],
                [
                    [name, median[name], min(took), max(took), statistics.median(cpu[name][-rounds:])]
                    for name, took in times.items()
                ],
            )
        ],
        targets=[
            at_most("drop-in", "`dbt-relay run --select m` on a warm stack, whole wall", 0.4, median[RELAY], "s"),
            at_least("drop-in-ratio", "`dbt-relay run --select m`: times faster than `dbt run --select m`", 10, median[COMMAND] / median[RELAY]),
        ],
        notes=["A DuckDB file for each side; `dbt` with a warm partial parse; a worker of one process that has the project parsed."],
        data={"seconds": times, "cpu": cpu},
    )  # fmt: skip


def _children() -> float:
    """CPU seconds of ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
