"""Generates dbt projects with graphs of several shapes, in a copy for each measured side."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.warehouses import Warehouse
from tests.support.processes import without_coverage

BIN = Path(sys.executable).parent
Graph = list[tuple[int, ...]]
"""For each model, the earlier models that it selects from."""


@dataclass(frozen=True)
class Copy:
    """A copy of a project with its part of a warehouse."""

    folder: Path
    warehouse: Warehouse
    name: str

    def dbt(self, *arguments: str) -> None:
        """Run plain dbt as a process.

        Raises:
            CalledProcessError: dbt failed.
        """
        command = [BIN / "dbt", *arguments]
        subprocess.run(command, cwd=self.folder, env=environment(), check=True, capture_output=True)

    def statuses(self) -> dict[str, str]:
        """Status of each node in the run_results.json of the last run, by unique id."""
        return statuses(json.loads((self.folder / "target" / "run_results.json").read_text()))


def statuses(run_results: dict[str, Any]) -> dict[str, str]:
    """Status of each node, by unique id."""
    return {each["unique_id"]: each["status"] for each in run_results["results"]}


def environment() -> dict[str, str]:
    """Environment of dbt on both sides. Python may write bytecode; otherwise each process would compile the checkout."""
    kept = {
        name: value
        for name, value in without_coverage(os.environ).items()
        if name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}


def write(folder: Path, graph: Graph, warehouse: Warehouse, copy: str, column: Callable[[int], str]) -> Copy:
    """Write a project of tables of one row, ``m_0`` to ``m_N``.

    Args:
        folder: is created.
        copy: name of its part of the warehouse.
        column: SQL of a scalar that a model computes.
    """
    (folder / "models").mkdir(parents=True)
    project = {
        "name": "many", "version": "1.0", "profile": "many", "models": {"many": {"+materialized": "table"}},
        "flags": {"send_anonymous_usage_stats": False},
    }  # fmt: skip
    profiles = {"many": {"target": "dev", "outputs": {"dev": warehouse.output(copy)}}}
    (folder / "dbt_project.yml").write_text(json.dumps(project))  # JSON is YAML
    (folder / "profiles.yml").write_text(json.dumps(profiles))
    for number, parents in enumerate(graph):
        part = folder / "models" / f"part_{number // 100}"
        part.mkdir(exist_ok=True)
        rows = [f"(select 1 from {{{{ ref('m_{each}') }}}} limit 1) as p{each}" for each in parents]
        source = " cross join ".join(rows) or "(select 1) as p"
        (part / f"m_{number}.sql").write_text(
            f"select {number} as id, {column(number)} as value\nfrom {source}\n"
        )
    return Copy(folder, warehouse, copy)


def nothing(number: int) -> str:
    """The column of a model that takes no time."""
    return f"'m{number}'"


def tree(models: int) -> Graph:
    """Each model has one parent and two children."""
    return [(number // 2,) if number else () for number in range(models)]


def layered(models: int, seed: int = 1) -> Graph:
    """Layers of random width; each model has one to three parents, most of them in the layer above."""
    chance = random.Random(seed)
    graph: Graph = []
    before: Sequence[int] = ()
    width = max(2, round(models / 10))
    while len(graph) < models:
        layer = range(len(graph), min(models, len(graph) + chance.randint(width // 2, width * 3 // 2)))
        earlier = len(graph)
        for _ in layer:
            wanted = chance.randint(1, 3)
            pool = [chance.choice(before) if chance.random() < 0.8 else chance.randrange(earlier) for _ in range(wanted)] if before else []  # fmt: skip
            graph.append(tuple(sorted(set(pool))))
        before = layer
    return graph


def wide(models: int) -> Graph:
    """One model, and all others select from it."""
    return [(0,) if number else () for number in range(models)]


def deep(models: int) -> Graph:
    """A chain."""
    return [(number - 1,) if number else () for number in range(models)]


def diamond(models: int, width: int = 8) -> Graph:
    """One model, then several that select from it, then one that selects from all of them, and so on."""
    graph: Graph = [()]
    while len(graph) < models:
        top = len(graph) - 1
        between = range(len(graph), min(models, len(graph) + width))
        graph += [(top,) for _ in between]
        if len(graph) < models:
            graph.append(tuple(between))
    return graph


SHAPES: dict[str, Callable[[int], Graph]] = {
    "layered": layered,
    "wide": wide,
    "deep": deep,
    "diamond": diamond,
}
