"""An engine without dbt, for otherwise real workers (`stub_worker`).

The environment of a run describes its graph (`environment`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.scale import children_of
from workers.contract.events import LINE, Event
from workers.engine.interface import (
    Finished,
    OnEvent,
    Plan,
    PlannedNode,
    RunFacts,
    RunSpec,
    StepOutcome,
    StepResult,
)
from workers.engine.warehouse import fencing
from workers.engine.warehouse.fencing import StepExecution

GRAPH = "BENCHMARK_GRAPH"


def environment(
    nodes: int, *, width: int, threads: int, session: bool = False, lines: int = 0, rate: float = 0.0
) -> dict[str, str]:
    """Environment of a run for the stub engine.

    Args:
        nodes: number of nodes, in layers of `width`; each has two parents in the layer above.
        threads: threads of the run; no effect on a session.
        session: whether a session executes the run, as on a DuckDB file.
        lines: number of lines of each node.
        rate: lines a second of each running node; 0: all at once.
    """
    graph = {
        "nodes": nodes, "width": width, "threads": threads, "session": session, "lines": lines, "rate": rate,
    }  # fmt: skip
    return {GRAPH: json.dumps(graph)}


def graph_of(spec: RunSpec) -> dict[str, Any]:
    """Read the graph from the environment of a run."""
    graph: dict[str, Any] = json.loads(spec.env[GRAPH])
    return graph


class StubEngine:
    """Has the interface of `workers.engine.engine.Engine`, and returns at once."""

    def __init__(self, shared: object, worker: str = "", contexts: int = 0, exiting: object = None) -> None:
        del shared, contexts, exiting
        self._worker = worker

    def plan(self, spec: RunSpec, emit: OnEvent, attempt: int = 1, previous: object = None) -> Plan:
        """Plan the graph of the run's environment."""
        del emit, attempt, previous
        graph = graph_of(spec)
        children = children_of(graph["nodes"], graph["width"])
        parents: list[list[str]] = [[] for _ in children]
        for number, below in enumerate(children):
            for child in below:
                parents[child].append(_id(number))
        nodes = tuple(
            PlannedNode(
                unique_id=_id(number), name=f"n{number}", resource_type="model",
                priority=number // graph["width"], parents=tuple(parents[number]),
                children=tuple(map(_id, below)),
            )
            for number, below in enumerate(children)
        )  # fmt: skip
        ids = tuple(node.unique_id for node in nodes)
        return Plan(
            facts=RunFacts(context_key="stub", selected=ids, flattened=ids, total=len(ids)), nodes=nodes,
            threads=graph["threads"], warehouse=f"stub:{spec.run_id}" if graph["session"] else None,
        )  # fmt: skip

    def start(self, spec: RunSpec, facts: RunFacts, emit: OnEvent, attempt: int = 1) -> StepOutcome:
        """Do nothing."""
        del spec, facts, emit, attempt
        return StepOutcome(result=StepResult(unique_id="@start", status="success", worker=self._worker))

    def node(
        self, spec: RunSpec, facts: RunFacts, unique_id: str, index: int, emit: OnEvent, **_: Any
    ) -> StepOutcome:
        """Emit the lines of the run's environment and return a result like dbt's."""
        del facts, index
        graph = graph_of(spec)
        _emit_lines(spec.run_id, unique_id, emit, graph["lines"], graph["rate"], self._worker)
        result = StepResult(
            unique_id=unique_id, status="success", name=unique_id.rpartition(".")[2], resource_type="model",
            message="OK", worker=self._worker, result=_result("success"),
        )  # fmt: skip
        return StepOutcome(result=result)

    def close(
        self,
        spec: RunSpec,
        facts: RunFacts,
        started: StepResult | None,
        results: Sequence[StepResult],
        emit: OnEvent,
        **_: Any,
    ) -> Finished:
        """Return the results in one list, as in dbt's artifact."""
        del spec, facts, started, emit
        entries = [{"unique_id": each.unique_id, **each.result} for each in results]
        return Finished(return_code=0, results=list(results), run_results={"results": entries})

    @contextmanager
    def fenced(self, execution: StepExecution) -> Iterator[None]:
        """As in the real engine."""
        with fencing.fenced(execution):
            yield

    def release(self) -> None:
        """Do nothing: there are no connections."""

    def cancel(self) -> None:
        """Do nothing: no query is running."""

    def forget(self, run_id: str) -> None:
        """Do nothing: there is no state of a run."""

    def mask(self, spec: RunSpec, raw: bytes) -> bytes:
        """Return `raw`: there are no secrets."""
        del spec
        return raw


def _id(number: int) -> str:
    return f"model.bench.n{number}"


def _result(status: str) -> dict[str, Any]:
    return {
        "status": status, "timing": [], "thread_id": "Thread-1", "execution_time": 0.0, "message": "OK",
        "adapter_response": {}, "failures": None, "batch_results": None,
    }  # fmt: skip


def _emit_lines(run_id: str, node: str, emit: OnEvent, lines: int, rate: float, worker: str) -> None:
    """Emit lines as the engine's sink does, each with its time."""
    began = time.monotonic()
    for number in range(lines):
        if rate:
            early = began + number / rate - time.monotonic()
            if early > 0:
                time.sleep(early)
        emit(
            Event(
                kind=LINE, run_id=run_id, node=node, attempt=1, worker=worker, at=time.time(),
                text=f"12:00:00  {number + 1} of {lines} OK created sql table model main.n [OK in 0.10s]",
            )
        )  # fmt: skip
