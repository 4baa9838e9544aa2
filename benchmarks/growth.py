"""Costs that grow with the size of the project or the number of processes.

- *Plan*: a run of all models of projects with 1,000 to 10,000 models, which the worker process has parsed: seconds from
  submit until the first node starts, and seconds of the plan alone. Then the run is cancelled.
- *Memory*: proportional set size (PSS) of a worker with 1, 2 and 3 processes that have all executed models of a
  project of 1,000 models.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil

from benchmarks.measure import Cell, Options, Outcome, Plot, Table, at_most
from benchmarks.one_model import copy_of
from benchmarks.projects import Copy
from benchmarks.stacks import Stack, stack
from benchmarks.warehouses import Warehouse, warehouses
from tests.support.runs import client, submit
from workers.contract.events import STATE

RUN_TIMEOUT = 900.0
"""Seconds, enough for a first plan with its parse."""


@dataclass
class Planned:
    """Seconds of one run: from submit to its first node, and of its plan alone."""

    first_node: float
    plan: float


def bench(options: Options) -> Outcome:
    """See the module."""
    outcome = Outcome(title="What grows with the project")
    sizes = options.pick((100, 200), (1000, 5000, 10_000))
    with warehouses(options.folder / "warehouses", outcome.notes) as places:
        place = places[-1]  # Postgres, where there is one
        found: dict[int, list[Planned]] = {}
        with stack(1) as workers:
            for models in sizes:
                copy = copy_of(options.folder, place, models, f"grows_{models}")
                planned(workers, copy)  # parses
                found[models] = [planned(workers, copy) for _ in range(options.pick(1, 5))]
                print(models, found[models], flush=True)
        memory = {
            processes: pss(options, place, sizes[0], processes)
            for processes in (options.pick((1, 2), (1, 2, 3)))
        }
    first, plan = (
        {models: statistics.median(getattr(each, what) for each in of) for models, of in found.items()}
        for what in ("first_node", "plan")
    )
    least, most = sizes[0], sizes[-1]
    rows: list[list[Cell]] = [[n, first[n], plan[n], plan[n] / n * 1e6] for n in sizes]
    further = max(memory[n] - memory[n - 1] for n in memory if n > 1)
    outcome.tables = [
        Table(
            "A warm plan, medians of seconds",
            ["nodes", "submit to first node", "plan", "plan, µs a node"],
            rows,
        ),
        Table("Memory of a worker, MB of PSS", ["processes", "MB"], [[n, mb] for n, mb in memory.items()]),
    ]
    outcome.plots = [
        Plot("growth", "A warm plan", "nodes of the run", "seconds", list(sizes),
             {"submit to first node": [first[n] for n in sizes], "plan": [plan[n] for n in sizes]})
    ]  # fmt: skip
    outcome.targets = [
        at_most("growth-first", f"a run of {most:,} nodes, warm: submit to first node", 2.0, first[most], "s"),
        at_most("growth-linear", f"cost of the plan for a node: {most:,} nodes ÷ {least:,} nodes", 1.1,
                plan[most] / most / (plan[least] / least)),
        at_most("growth-memory", f"a further worker process on a project of {least:,} models", 60, further, "MB PSS"),
    ]  # fmt: skip
    outcome.notes.append(
        f"On {place.name}. The worker process holds the parsed project; the run is of all its models."
    )
    outcome.data = {"planned": found, "memory": memory}
    return outcome


def planned(workers: Stack, copy: Copy) -> Planned:
    """Submit a run of all models, wait for its first node, and cancel the run."""
    relay = client(workers.server)
    began = time.time()
    run_id = submit(workers.server, copy.folder, ["run"])
    first = None
    for event in relay.watch(run_id, timeout=RUN_TIMEOUT):
        if event.kind == STATE and event.state == "running" and not event.node.startswith("@"):
            first = event.at
            break
    relay.cancel(run_id)
    result = relay.result(run_id, timeout=RUN_TIMEOUT)
    if first is None:
        raise RuntimeError(f"no node started: {result.stdout[-600:]}")
    step = next(each for each in result.attempts if each.step == "@plan")
    return Planned(first - began, step.finished_at - step.started_at)


def pss(options: Options, place: Warehouse, models: int, processes: int) -> float:
    """PSS of a worker in MB, after all its processes have executed models of a project."""
    copy = copy_of(options.folder, place, models, f"memory_{processes}")
    names = [f"m_{number}" for number in range(models - 60, models)]
    with stack(processes) as workers:
        executed: set[str] = set()
        for _ in range(10):
            result = workers.run(copy, "run", "--select", *names, threads=2 * processes)
            executed |= {node.worker for node in result.nodes}
            if len(executed) >= processes:
                break
        else:
            raise RuntimeError(f"only {executed} of {processes} processes executed anything")
        parent = psutil.Process(workers.pool.pid)
        family = [parent, *parent.children(recursive=True)]
        return float(sum(each.memory_full_info().pss for each in family)) / 2**20
