"""Model of how a run scales: a discrete-event simulation with 1 to 1,000 processes and 100 to 100,000 nodes.

    python -m benchmarks.scale [--sql 0 0.5 2] [--seed 1] [--json FILE]

It models a run on a warehouse with concurrent writers: a plan, its nodes with one message each, and the close.

- Redis is one single-threaded server. Its work for a node (claim, lines, finish, Celery's own commands) takes a
  fixed time, and all requests wait in one queue.
- At most 16 unclaimed messages of a run are published (`scripts/prelude.lua`, WINDOW). Each claim publishes the next,
  which travels through the broker to a free worker.
- A worker's main process takes messages from the broker, passes them to its pool and sends events to Flower, one
  after another. A pool has POOL processes.
- A process executes one node at a time: dbt's and our work (CPU of its own core), then the SQL, whose duration is
  log-normal.
- The graph has layers; each node has two parents in the layer above.

The warehouse has no limit and every process has a core, so that the result is the overhead of dbt-relay. The costs
are arguments. Their defaults are the measured ones in docs/scaling.md; ``--measured`` uses those of ``python -m
benchmarks scale`` (`calibration`, which also compares the model with real runs).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

WINDOW = 16
POOL = 8
WORKERS = (1, 10, 30, 100, 300, 1000)
NODES = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Costs:
    """Costs in seconds.

    Attributes:
        plan, plan_node: a plan in a warm process: constant part, and part for each node of the run.
        way: a message, from its sender to the main process of a worker with a free process.
        parent: that main process, for a node: its message, the pool, Flower's events.
        claim, finish: the server, for a worker's requests before and after a node.
        node: a pool process, for an empty node: dbt's runner, our code, Celery.
        close_node: the close, for each node.
    """

    plan: float = 0.018
    plan_node: float = 0.0003
    way: float = 0.0
    parent: float = 0.00186
    claim: float = 0.0005
    finish: float = 0.0005
    node: float = 0.0443
    close_node: float = 0.0009


class Server:
    """A resource with one queue, such as Redis: requests are served in order."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Serve a request that arrives at `now`. Returns when it is done."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy += seconds
        return self.free_at


def children_of(nodes: int, width: int) -> list[list[int]]:
    """Graph in layers. Returns the children of each node."""
    out: list[list[int]] = []
    for number in range(nodes):
        layer, place = divmod(number, width)
        below = [(layer + 1) * width + each for each in {place, (place + 1) % width}]
        out.append([child for child in below if child < nodes])
    return out


class Run:
    """Simulation of one run."""

    def __init__(self, nodes: int, workers: int, sql: float, costs: Costs, *, width: int, seed: int) -> None:
        self.costs, self.done = costs, 0
        self.pools = [Server() for _ in range(0, workers, POOL)]
        self.free = [min(POOL, workers - first) for first in range(0, workers, POOL)]
        self.all_free, self.pool_of = workers, [0] * nodes
        self.children = children_of(nodes, width)
        self.waiting = [0] * nodes
        for released in self.children:
            for child in released:
                self.waiting[child] += 1
        rng = random.Random(seed)
        self.length = [costs.node + (_log_normal(rng, sql) if sql else 0.0) for _ in range(nodes)]
        self.server = Server()
        self.now = self.planned = self.server.serve(costs.plan + costs.plan_node * nodes, costs.finish)
        self.ready = deque(node for node in range(nodes) if not self.waiting[node])
        self.out = 0
        """Number of unclaimed messages; those in `queue` have arrived."""
        self.queue: deque[int] = deque()
        self._events: list[tuple[float, int, str, int]] = []
        self._number = 0

    def play(self) -> None:
        """Simulate from the plan to the last node."""
        self._hand_out()
        while self._events:
            self.now, _, what, node = heapq.heappop(self._events)
            getattr(self, what)(node)
            self._hand_out()
            while self.queue and self.all_free:
                self._take(self.queue.popleft())

    def arrives(self, node: int) -> None:
        self.queue.append(node)

    def _take(self, node: int) -> None:
        """Assign a node to the pool that is free first; among free pools, to the one with most free processes."""
        free = (pool for pool, processes in enumerate(self.free) if processes)
        pool = min(free, key=lambda each: (max(self.now, self.pools[each].free_at), -self.free[each]))
        self.all_free -= 1
        self.free[pool] -= 1
        self.pool_of[node] = pool
        self._at(self.pools[pool].serve(self.now, self.costs.parent), "taken", node)

    def taken(self, node: int) -> None:
        self._at(self.server.serve(self.now, self.costs.claim), "claimed", node)

    def claimed(self, node: int) -> None:
        self.out -= 1
        self._at(self.now + self.length[node], "executed", node)

    def executed(self, node: int) -> None:
        self._at(self.server.serve(self.now, self.costs.finish), "finished", node)

    def finished(self, node: int) -> None:
        self.free[self.pool_of[node]] += 1
        self.all_free += 1
        self.done += 1
        for child in self.children[node]:
            self.waiting[child] -= 1
            if not self.waiting[child]:
                self.ready.append(child)

    def _hand_out(self) -> None:
        while self.ready and self.out < WINDOW:
            self.out += 1
            self._at(self.now + self.costs.way, "arrives", self.ready.popleft())

    def _at(self, when: float, what: str, node: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what, node))


def _log_normal(rng: random.Random, mean: float, spread: float = 0.8) -> float:
    return rng.lognormvariate(math.log(mean) - spread**2 / 2, spread)


def simulate(nodes: int, workers: int, sql: float, costs: Costs, *, width: int, seed: int) -> dict[str, Any]:
    """One run; when it ended and what kept whom.

    Args:
        sql: mean seconds of a node's SQL.
        width: nodes of a layer.
    """
    run = Run(nodes, workers, sql, costs, width=width, seed=seed)
    run.play()
    assert run.done == nodes
    ended, work = run.now + costs.close_node * nodes, sum(run.length)
    executing = run.now - run.planned
    return {
        "nodes": nodes, "workers": workers, "sql": sql, "seconds": round(ended, 2),
        "speedup": round(work / ended, 1),
        "best": round(work / max(work / workers, _longest_path(run.children, run.length)), 1),
        "redis_busy": round(run.server.busy / executing, 2),
        "nodes_per_second": round(nodes / executing, 1),
        "plan_and_close": round(1 - executing / ended, 2),
    }  # fmt: skip


def _longest_path(children: list[list[int]], length: list[float]) -> float:
    finish = [0.0] * len(length)
    for node in range(len(length) - 1, -1, -1):
        finish[node] = length[node] + max((finish[child] for child in children[node]), default=0.0)
    return max(finish)


FREE: dict[str, dict[str, float]] = {
    "Redis": {"claim": 0.0, "finish": 0.0},
    "the way of a message": {"way": 0.0},
    "main processes": {"parent": 0.0},
    "plan and close": {"plan": 0.0, "plan_node": 0.0, "close_node": 0.0},
}


def limit(found: dict[str, Any], costs: Costs, *, width: int, seed: int) -> str:
    """Describe what limits a run: costs without which it would be more than 10 % faster, each with that factor; or the
    workers, or the graph."""
    nodes, workers, sql = found["nodes"], found["workers"], found["sql"]
    gains = {
        name: found["seconds"] / simulate(nodes, workers, sql, replace(costs, **free), width=width, seed=seed)["seconds"]
        for name, free in FREE.items()
        if found["speedup"] < 0.9 * found["best"]
    }  # fmt: skip
    worth = sorted(((gain, name) for name, gain in gains.items() if gain > 1.1), reverse=True)
    if worth:
        return ", ".join(f"{name} ({gain:.1f}x)" for gain, name in worth)
    return "workers" if found["best"] >= 0.95 * workers else "the graph"


def costs_of(results: str) -> Costs:
    """Read the costs of ``python -m benchmarks scale`` from results.json."""
    outcomes = json.loads(results)["outcomes"]
    found = next(
        (each["data"]["costs"] for each in outcomes if each["name"] == "scale" and each["data"]), None
    )
    if found is None:
        raise SystemExit("there are no costs in it: run `python -m benchmarks scale` first")
    return Costs(**found)


def main() -> int:
    """Print a table for each mean of the SQL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sql", type=float, nargs="+", default=[0.0, 0.5, 2.0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measured", type=Path, help="a results.json whose costs are taken")
    for name in asdict(Costs()):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    options = parser.parse_args()
    costs = costs_of(options.measured.read_text()) if options.measured else Costs()
    given = {name: value for name in asdict(Costs()) if (value := getattr(options, name)) is not None}
    costs = replace(costs, **given)
    rows = []
    print(costs)
    for sql in options.sql:
        print(f"\nSQL of {sql:g} s a node on average")
        print(
            f"{'nodes':>8}{'workers':>9}{'seconds':>10}{'speed-up':>10}{'at best':>9}{'nodes/s':>9}{'Redis busy':>12}  limit"
        )
        for nodes in NODES:
            for workers in WORKERS:
                if workers > nodes:
                    continue
                width = max(10, nodes // 20)
                found = simulate(nodes, workers, sql, costs, width=width, seed=options.seed)
                found["limit"] = limit(found, costs, width=width, seed=options.seed)
                rows.append(found)
                print(
                    f"{nodes:8}{workers:9}{found['seconds']:10}{found['speedup']:10}{found['best']:9}"
                    f"{found['nodes_per_second']:9}{found['redis_busy']:12}  {found['limit']}"
                )
    if options.json:
        options.json.write_text(json.dumps({"costs": asdict(costs), "runs": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
