"""Measures the costs of the scaling model (`scale`) and compares its predictions with whole runs.

The time of Redis, of a worker's main process and of a pool process for a node is measured with empty nodes (`carrier`).
The time of a node, a plan and a close is measured on one process and a small project. The model then predicts other
runs: twice the processes, four times the nodes. It assumes a core for each process; here processes, server, warehouse
and watcher share the machine's cores, so its predictions are too short when all of them are busy.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import psutil

from benchmarks.carrier import Stubs, stubs
from benchmarks.measure import Cell, Options, Outcome, Table, interleaved
from benchmarks.projects import Copy, nothing, write
from benchmarks.scale import POOL, Costs, children_of, limit, simulate
from benchmarks.stacks import Stack, stack
from benchmarks.warehouses import DuckDB, warehouses
from workers.contract.results import DbtResult

WIDTH = 10
ON_PAPER = ((1000, 10), (1000, 30), (10_000, 10), (10_000, 30), (10_000, 100), (10_000, 1000))
"""Nodes and pool processes."""
CLAIM_SHARE = 0.48
"""Share of the claim script in the server's work for a node (from a profile of `carrier`)."""


def bench(options: Options) -> Outcome:
    """Measure the costs, and the error of the model's predictions."""
    small, large = options.pick((20, 40), (50, 200))
    rounds = options.pick(1, 3, 7)
    outcome = Outcome("The model of docs/scaling.md, held against runs")
    with ExitStack() as opened:
        places = opened.enter_context(warehouses(options.folder / "warehouses", outcome.notes))
        place = next((each for each in places if not isinstance(each, DuckDB)), None)
        if place is None:
            return outcome  # the model does not cover DuckDB files
        carrier = empty(opened, options.pick(200, 1000), rounds)
        stacks = {processes: opened.enter_context(stack(processes)) for processes in (1, 2)}
        found: dict[tuple[int, int], list[DbtResult]] = {}
        seconds: dict[tuple[int, int], float] = {}
        for nodes in (small, large):
            copy = write(options.folder / f"p{nodes}", parents_of(nodes), place, f"scale{nodes}", nothing)
            ways = {
                str(processes): Case(workers, copy, found.setdefault((nodes, processes), []))
                for processes, workers in stacks.items()
            }
            for name, took in interleaved(ways, rounds, warm=1).items():
                seconds[nodes, int(name)] = statistics.median(took)
    costs = costs_from(carrier, found, small, large, rounds)
    rows: list[list[Cell]] = []
    worst = 0.0
    for (nodes, processes), took in seconds.items():
        predicted = simulate(nodes, processes, 0.0, costs, width=WIDTH, seed=1)["seconds"]
        if (nodes, processes) != (small, 1):
            worst = max(worst, abs(took / predicted - 1))
        rows.append([nodes, processes, took, predicted, took / predicted])
    outcome.tables = [
        Table("Costs", ["cost", "ms"], [[name, value * 1000] for name, value in asdict(costs).items()]),
        Table("Whole runs of small models on Postgres", ["nodes", "processes", "seconds", "the model says", "times the model"], rows),
    ]  # fmt: skip
    outcome.notes.append(
        f"The costs come from empty nodes and from the run of {small} nodes on one process; the other rows are predictions, with an error of {worst:.0%} at most. The model "
        f"gives every process a core; here {psutil.cpu_count()} cores are shared by the processes, Redis, Postgres and the watcher."
    )
    outcome.data = {
        "costs": asdict(costs),
        "seconds": {f"{n} nodes, {p} processes": each for (n, p), each in seconds.items()},
    }
    return outcome


def on_paper(costs: Costs, sql: float) -> Table:
    """Predictions of the model with these costs, for large runs."""
    what = f"{sql:g} s of SQL on average" if sql else "no SQL"
    rows: list[list[Cell]] = []
    for nodes, processes in ON_PAPER:
        shape = {"width": max(10, nodes // 20), "seed": 1}
        found = simulate(nodes, processes, sql, costs, **shape)
        of_all = [found[each] for each in ("seconds", "speedup", "best", "nodes_per_second")]
        rows.append([nodes, processes, *of_all, f"{found['redis_busy']:.0%}", limit(found, costs, **shape)])
    columns = [
        "nodes",
        "processes",
        "seconds",
        "speed-up",
        "at best",
        "nodes a second",
        "Redis busy",
        "what it costs",
    ]
    return Table(f"On paper: nodes with {what}, workers of {POOL} processes", columns, rows)


class Case:
    """Runs a project on a stack on each call, and keeps the results."""

    def __init__(self, workers: Stack, copy: Copy, results: list[DbtResult]) -> None:
        self._workers, self._copy, self._results = workers, copy, results

    def __call__(self) -> None:
        self._results.append(self._workers.run(self._copy, "run", threads=16))


def parents_of(nodes: int) -> list[tuple[int, ...]]:
    """The graph of `scale`, in the format of `projects.write`."""
    parents: list[tuple[int, ...]] = [() for _ in range(nodes)]
    for number, below in enumerate(children_of(nodes, WIDTH)):
        for child in below:
            parents[child] += (number,)
    return parents


def empty(opened: ExitStack, nodes: int, rounds: int) -> dict[str, float]:
    """Measure empty nodes: CPU seconds a node of the server, the worker's main process and a pool process, and the
    seconds from one node of a chain to the next."""
    from tests.support.redis_server import RedisServer

    server = RedisServer(appendonly="no")
    opened.callback(server.close)
    server.start()
    with stubs(server, 2) as workers:
        workers.run(50)
        every: list[dict[str, float]] = []
        for _ in range(rounds):
            before = _cpu_seconds(workers)
            workers.run(nodes)
            every.append(
                {name: (used - before[name]) / nodes for name, used in _cpu_seconds(workers).items()}
            )
        hops = [_hop(workers.run(100, width=1)) for _ in range(rounds)]
    found = {name: statistics.median(each[name] for each in every) for name in every[0]}
    return {**found, "hop": statistics.median(hops)}


def _cpu_seconds(workers: Stubs) -> dict[str, float]:
    """CPU seconds so far, by process."""

    def of(pids: Sequence[int]) -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)

    pool = workers.pool
    return {"server": of([pool.server.pid]), "parent": of([pool.pid]), "child": of(pool.children)}


def _hop(result: DbtResult) -> float:
    """Median seconds between the starts of two consecutive nodes of a chain."""
    starts = sorted(each.started_at for each in result.nodes)
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(starts))


def costs_from(
    carrier: dict[str, float],
    found: dict[tuple[int, int], list[DbtResult]],
    small: int,
    large: int,
    rounds: int,
) -> Costs:
    """Compute the costs of the model.

    Args:
        carrier: see `empty`.
        found: results by number of nodes and processes; the last `rounds` of each are used.
    """

    def step(nodes: int, name: str) -> float:
        return statistics.median(_took(result, name) for result in found[nodes, 1][-rounds:])

    slope = max(0.0, (step(large, "@plan") - step(small, "@plan")) / (large - small))
    executed = [
        each.finished_at - each.started_at for result in found[small, 1][-rounds:] for each in result.nodes
    ]
    way = carrier["hop"] - carrier["server"] - carrier["parent"] - carrier["child"]
    return Costs(
        plan=max(0.0, step(small, "@plan") - slope * small), plan_node=slope, way=max(0.0, way),
        parent=carrier["parent"], claim=carrier["server"] * CLAIM_SHARE,
        finish=carrier["server"] * (1 - CLAIM_SHARE),
        node=statistics.mean(executed) + carrier["child"], close_node=step(large, "@close") / large,
    )  # fmt: skip


def _took(result: DbtResult, step: str) -> float:
    attempt: Any = next(each for each in result.attempts if each.step == step)
    return float(attempt.finished_at - attempt.started_at)
