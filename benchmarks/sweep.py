"""A parameter sweep: eight scenarios of five years, each with its own DuckDB file.

Plain dbt executes a ``dbt build`` for each year and scenario, one after the other, as a script does. dbt-relay has two
worker processes and executes all scenarios at once: a thread for each submits its years in order. Afterwards the
tables of both sides must be equal.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Options, Outcome, Plot, Table
from benchmarks.sides import COMMAND, RELAY, Execute, as_command, demonstration, differences, on_relay
from benchmarks.simulation import FIRST_YEAR
from benchmarks.stacks import stack


def bench(options: Options) -> Outcome:
    """Measure seconds of the whole sweep, once for each side."""
    scenarios, years = options.pick((2, 1), (8, 5))
    project = demonstration(options.folder / "project")
    names = [f"scenario{number}" for number in range(scenarios)]

    def run_scenario(do: Callable[[Path], Execute], way: str, number: int) -> None:
        execute = do(_file(options.folder, way, names[number]))
        for year in range(FIRST_YEAR, FIRST_YEAR + years):
            given = {"simulation_year": year, "scenario_id": names[number], "cola_rate": 0.01 + number / 400}
            execute(["build", "--vars", json.dumps(given)])

    copies = {way: Path(shutil.copytree(project, options.folder / way)) for way in (COMMAND, RELAY)}
    began = time.perf_counter()
    for number in range(scenarios):
        run_scenario(lambda file: as_command(copies[COMMAND], file), COMMAND, number)
    plain = time.perf_counter() - began
    with stack(2) as workers, ThreadPoolExecutor(scenarios) as threads:
        began = time.perf_counter()
        each = [
            threads.submit(run_scenario, lambda file: on_relay(workers, copies[RELAY], file), RELAY, number)
            for number in range(scenarios)
        ]
        for done in each:
            done.result()
        relay = time.perf_counter() - began
    for name in names:
        if found := differences(_file(options.folder, COMMAND, name), _file(options.folder, RELAY, name)):
            raise RuntimeError(f"{name} is not the same on both sides: {'; '.join(found)}")
    what = f"{scenarios} scenarios of {years} years"
    return Outcome(
        f"A sweep: {what}",
        tables=[
            Table("", ["way", "seconds", "times dbt-relay"],
                  [["dbt build, one after the other", plain, plain / relay], ["dbt-relay, 2 processes, all at once", relay, 1.0]]),
        ],
        plots=[Plot("sweep", what, "", "seconds", [what], {COMMAND: [plain], RELAY: [relay]}, "bars")],
        notes=["Each side once, one after the other. Each scenario left the same tables on both."],
        data={"seconds": {COMMAND: plain, RELAY: relay}},
    )  # fmt: skip


def _file(folder: Path, way: str, name: str) -> Path:
    return folder / f"{way} {name}.duckdb"
