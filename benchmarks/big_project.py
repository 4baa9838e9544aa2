"""A large project with packages: cold plan, close and memory of worker processes, compared with plain dbt.

The project is `tests.support.big_project`: 800 models, 1,100 tests, 25 schemas, 600 macros, four packages, a manifest of
about 40 MB. One command builds all models on a DuckDB file.

- *Cold plan*: the plan of a new worker, with its parse, compared with a ``dbt parse`` process. A plan also selects nodes
  and links the graph, which ``dbt parse`` does not; ``dbt parse`` also starts Python.
- *Close*: the close of the run, compared with plain dbt from the end of its last node to the end of its process.
- *Memory*: PSS of two pool processes: after one parsed the project, and after the other unpacked it.
"""

from __future__ import annotations

import json
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import psutil

from benchmarks.measure import Cell, Options, Outcome, Table, at_most
from benchmarks.sides import COMMAND, DBT, RELAY, dbt_environment
from benchmarks.stacks import Stack, stack, succeeded
from producer.runner import DbtRunner
from tests.support.big_project import FULL, PART, model, write_big_project
from workers.contract.results import DbtResult

RUN = ["build", "--exclude-resource-type", "test"]
ONE = ["run", "--select", model(2)]
TRIES = 20
"""Number of commands after which both processes must have executed one."""


def bench(options: Options) -> Outcome:
    """See the module."""
    size = options.pick(PART, FULL)
    plain, ours = (write_big_project(options.folder / name, size) for name in ("plain", "relay"))
    parse = timed(plain, "--no-partial-parse", "parse")
    with stack(2) as workers:
        first = run(workers, ours, ONE)
        plan = seconds(first, "@plan")
        memory: list[list[Cell]] = [["one process parsed the project", *pss(workers)]]
        whole = run(workers, ours, RUN)
        close = seconds(whole, "@close")
        use_both_processes(workers, ours)
        memory.append(["the other unpacked it", *pss(workers)])
    after_last = plain_close(plain)
    manifest = (ours / "target" / "manifest.json").stat().st_size / 2**20
    return Outcome(
        "A large project with packages",
        tables=[
            Table("Seconds", ["part", COMMAND, RELAY, "ratio"],
                  [["cold plan (plain dbt: `dbt parse`)", parse, plan, plan / parse],
                   ["after the last node", after_last, close, close / after_last]]),
            Table("Memory, MB of PSS", ["when", "larger process", "smaller process"], memory),
        ],
        targets=[
            at_most("big-plan", f"{size.models} models with packages: cold plan ÷ `dbt parse`", 1.15, plan / parse),
            at_most("big-close", f"{size.models} models with packages: close ÷ plain dbt after its last node", 2.0,
                    close / after_last),
        ],
        notes=[f"{size.models} models, {size.tests} tests, {size.macros} macros of its own; manifest.json has {manifest:.0f} MB."],
    )  # fmt: skip


def timed(project: Path, *arguments: str) -> float:
    """Run plain dbt as a process. Returns seconds.

    Raises:
        CalledProcessError: dbt failed.
    """
    began = time.perf_counter()
    environment = dbt_environment(project / "big.duckdb")
    subprocess.run([DBT, *arguments], cwd=project, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def plain_close(project: Path) -> float:
    """Run plain dbt. Returns seconds from the end of its last node to the end of the process."""
    timed(project, *RUN)
    ended = time.time()
    results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    done = max(timing["completed_at"] for each in results for timing in each["timing"])
    last = datetime.fromisoformat(done.rstrip("Z")).replace(tzinfo=timezone.utc)
    return ended - last.timestamp()


def run(workers: Stack, project: Path, arguments: list[str]) -> DbtResult:
    """Run a command on the workers.

    Raises:
        RuntimeError: the command failed.
    """
    environment = dbt_environment(project / "big.duckdb")
    runner = DbtRunner(project, threads=None, broker_url=workers.server.broker_url, environ=environment)
    return succeeded(runner.execute_command(arguments, stream_output=False))


def seconds(result: DbtResult, step: str) -> float:
    """Duration of a step of a run."""
    attempt = next(each for each in result.attempts if each.step == step)
    return attempt.finished_at - attempt.started_at


def use_both_processes(workers: Stack, project: Path) -> None:
    """Run one model until both processes have executed it.

    Raises:
        RuntimeError: one process executed all runs.
    """
    executed: set[str] = set()
    for _ in range(TRIES):
        executed |= {node.worker for node in run(workers, project, ONE).nodes}
        if len(executed) > 1:
            return
    raise RuntimeError(f"only {executed} executed anything")


def pss(workers: Stack) -> list[float]:
    """PSS of the pool processes in MB, largest first."""
    sizes = [psutil.Process(pid).memory_full_info().pss / 2**20 for pid in workers.pool.children]
    return sorted(sizes, reverse=True)
