"""Time of one model by part: the engine's steps in one process, without Redis and Celery.

    python -m benchmarks.one_model_parts PROJECT MODEL [--rounds 20]

Prints CPU milliseconds (of all threads, including DuckDB's) and wall milliseconds of each step, the share of dbt's
node runner, and the time that DuckDB alone takes to open the project's file, write one table and close it. The
warehouse is that of PROJECT's profile. ``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

if TYPE_CHECKING:
    from workers.engine.engine import Engine
    from workers.engine.interface import StepResult

ALONE = "DuckDB alone"

Spent = dict[str, list[tuple[float, float]]]


@contextmanager
def spending(spent: Spent, name: str) -> Iterator[None]:
    """Record CPU and wall milliseconds of the block."""
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        took = (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000
        spent.setdefault(name, []).append(took)


def measure(project: Path, model: str, rounds: int) -> dict[str, dict[str, float]]:
    """Measure the parts of a run. Returns median and minimum CPU and median wall of each, in milliseconds."""
    from dbt.task.runnable import GraphRunnableTask

    from tests.support.engine import Shared
    from workers.engine.engine import Engine

    engine, spent = Engine(Shared(), worker="benchmark"), {}
    original: Callable[..., Any] = GraphRunnableTask.call_runner

    def call_runner(*args: Any) -> Any:
        with spending(spent, "dbt's runner"):
            return original(*args)

    GraphRunnableTask.call_runner = call_runner  # type: ignore[method-assign]

    for _ in range(3):  # warm
        run_once(engine, project, model, spent)
    gc.collect()
    gc.freeze()
    spent.clear()
    for _ in range(rounds):
        run_once(engine, project, model, spent)
        for file in duckdb_file(project):
            with spending(spent, ALONE):
                write_alone(file, model)
    return {
        name: {
            "cpu": statistics.median(cpu for cpu, _ in took), "cpu_least": min(cpu for cpu, _ in took),
            "wall": statistics.median(wall for _, wall in took),
        }
        for name, took in spent.items()
    }  # fmt: skip


def run_once(engine: Engine, project: Path, model: str, spent: Spent) -> None:
    """Run a model on the engine and record the time of each step."""
    from tests.support.engine import spec_for

    spec = spec_for(project, "run", "--select", model)
    events: list[Any] = []
    with spending(spent, "plan"):
        plan = engine.plan(spec, events.append)
    facts = msgspec.structs.replace(plan.facts, began=time.time())
    with spending(spent, "start"):
        started = engine.start(spec, facts, events.append)
    changes, results = [each.encode() for each in started.cache], []

    def changes_from(position: int) -> list[bytes]:
        return changes[position:]

    for index, planned in enumerate(plan.nodes, 1):
        with spending(spent, "node"):
            done = engine.node(spec, facts, planned.unique_id, index, events.append, changes=changes_from)
        assert done.result.status == "success", done.result.message
        changes += [each.encode() for each in done.cache]
        results.append(_reencoded(done.result))
    with spending(spent, "close"):
        engine.close(spec, facts, _reencoded(started.result), results, events.append, changes=changes_from)
    with spending(spent, "release"):
        engine.release()
    engine.forget(spec.run_id)


def _reencoded(result: StepResult) -> StepResult:
    """A result as another process decodes it."""
    from workers.engine.interface import StepResult, encode

    return msgspec.json.decode(encode(result), type=StepResult)


def duckdb_file(project: Path) -> list[str]:
    """The DuckDB file of the profile; empty for another adapter."""
    (profile,) = yaml.safe_load((project / "profiles.yml").read_text()).values()
    output = profile["outputs"][profile["target"]]
    return [output["path"]] if output["type"] == "duckdb" else []


def write_alone(file: str, table: str) -> None:
    """The minimal work on DuckDB: open the file, replace a table, close the file."""
    import duckdb

    with duckdb.connect(file) as connection:
        connection.execute(f"create or replace table {table} as select 1 as id, 'm' as value")


def rows_of(parts: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The parts, their sum, and the sum without dbt's node runner."""
    steps = {name: row for name, row in parts.items() if name not in {"dbt's runner", ALONE}}
    kinds = ("cpu", "cpu_least", "wall")
    total = {kind: sum(row[kind] for row in steps.values()) for kind in kinds}
    runner = parts["dbt's runner"]
    rest = {kind: total[kind] - runner[kind] for kind in kinds}
    alone = {ALONE: parts[ALONE]} if ALONE in parts else {}
    return {**steps, "all steps": total, "dbt's node runner": runner, "all else": rest, **alone}


def table(parts: dict[str, dict[str, float]]) -> str:
    """Format the table for a terminal."""
    lines = [f"{'part':22}{'CPU':>9}{'least':>9}{'wall':>9}  ms"]
    for name, row in rows_of(parts).items():
        lines.append(f"{name:22}{row['cpu']:9.1f}{row['cpu_least']:9.1f}{row['wall']:9.1f}")
    return "\n".join(lines)


def main() -> int:
    """Print the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts = measure(options.project.resolve(), options.model, options.rounds)
    print(json.dumps(parts) if options.json else table(parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
