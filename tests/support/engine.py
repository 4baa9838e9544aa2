"""The engine without Redis and Celery: a run driven from step to step, on one process's engine or several."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.support.untraced import parse_untraced
from workers.contract.events import LINE, STDERR, Event
from workers.engine import startup
from workers.engine.engine import CommandFailedError, Engine
from workers.engine.interface import Finished, Plan, RunFacts, RunSpec, StepOutcome, StepResult, encode

parse_untraced()
startup.prepare(os.environ.get("RELAY_TEST_PATCHES", ""))


class Shared:
    """What processes share of parsed manifests, in memory; counts what is asked of it."""

    def __init__(self) -> None:
        self.packed: dict[str, bytes] = {}
        self.indexes: dict[str, bytes] = {}
        self.parses = 0

    def load(self, key: str) -> bytes | None:
        """See `workers.engine.interface.SharedContexts`."""
        return self.packed.get(key)

    def save(self, key: str, packed: bytes) -> None:
        """See `workers.engine.interface.SharedContexts`. Called once a parse."""
        self.parses += 1
        self.packed[key] = packed

    def index(self, family: str) -> bytes | None:
        """See `workers.engine.interface.SharedContexts`."""
        return self.indexes.get(family)

    def save_index(self, family: str, index: bytes) -> None:
        """See `workers.engine.interface.SharedContexts`."""
        self.indexes[family] = index


def spec_for(project: Path, *args: str, env: Mapping[str, str] | None = None, **more: Any) -> RunSpec:
    """A run of dbt's arguments in a project."""
    return RunSpec(
        run_id=uuid.uuid4().hex[:12], args=args, cwd=str(project), project_dir=str(project),
        env={**os.environ, **(env or {})}, invocation_id=str(uuid.uuid4()), started_at=time.time(), **more,
    )  # fmt: skip


@dataclass
class Ran:
    """A run that was driven to its end."""

    finished: Finished
    plan: Plan | None = None
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """dbt's console."""
        return [event.text for event in self.events if event.kind == LINE and event.stream != STDERR]

    @property
    def errors(self) -> list[str]:
        """What the steps' code wrote on stderr."""
        return [event.text for event in self.events if event.stream == STDERR]

    @property
    def statuses(self) -> dict[str, str]:
        """dbt's word for each entry of the run results, by the node's name."""
        entries = (self.finished.run_results or {}).get("results", [])
        parts = [(entry["unique_id"].split("."), entry["status"]) for entry in entries]
        return {part[3 if part[0] == "unit_test" else 2]: status for part, status in parts}


def drive(
    engines: Engine | Sequence[Engine],
    spec: RunSpec,
    *,
    attempt: int = 1,
    previous: Mapping[str, Any] | None = None,
) -> Ran:
    """Plan, start, every node after its parents, close: the steps in turn on each of the engines.

    Results and facts go through JSON between steps, as they do in the ledger.
    """
    turn = itertools.cycle(engines if isinstance(engines, Sequence) else [engines])
    events: list[Event] = []
    stream: list[bytes] = []

    def changes(position: int) -> list[bytes]:
        return stream[position:]

    def keep(outcome: StepOutcome) -> StepOutcome:
        stream.extend(change.encode() for change in outcome.cache)
        return replace_result(outcome)

    ran = Ran(Finished(return_code=2), events=events)
    results: list[StepResult] = []
    try:
        ran.plan = plan = next(turn).plan(spec, events.append, previous=previous)
        facts = msgspec.json.decode(msgspec.json.encode(plan.facts), type=RunFacts)
        if not plan.nodes:
            ran.finished = next(turn).close(spec, facts, None, [], events.append, changes=changes)
            return ran
        started = keep(next(turn).start(spec, facts, events.append))
        facts = msgspec.structs.replace(facts, began=time.time())
        waiting = {node.unique_id: set(node.parents) for node in plan.nodes}
        children = {node.unique_id: node.children for node in plan.nodes}
        ephemeral = {node.unique_id for node in plan.nodes if node.ephemeral}
        skips: dict[str, str] = {}
        numbers = itertools.count(1)
        stop = started.stop
        while waiting and stop is None:
            ready = min(name for name, parents in waiting.items() if not parents)
            del waiting[ready]
            cause = ran.outcomes.get(skips.get(ready, ""))
            outcome = keep(
                next(turn).node(
                    spec, facts, ready, 0 if ready in ephemeral else next(numbers), events.append,
                    changes=changes, attempt=attempt, skip=ready in skips,
                    cause=None if cause is None else cause.result,
                )
            )  # fmt: skip
            ran.outcomes[ready] = outcome
            results.append(outcome.result)
            stop = outcome.stop
            if outcome.blocks:
                reached, skipped = list(children[ready]), set[str]()
                while reached:
                    child = reached.pop()
                    if child not in skipped:  # a node may be reached by very many ways
                        skipped.add(child)
                        skips[child] = ready
                        reached.extend(children[child])
            for parents in waiting.values():
                parents.discard(ready)
        ran.finished = next(turn).close(
            spec, facts, started.result, results, events.append, changes=changes, stop=stop
        )
    except CommandFailedError as failed:
        ran.finished = failed.finished
    return ran


def replace_result(outcome: StepOutcome) -> StepOutcome:
    """The outcome with its result as another process reads it."""
    outcome.result = msgspec.json.decode(encode(outcome.result), type=StepResult)
    return outcome
