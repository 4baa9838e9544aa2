"""Executes runs on the engine without Redis and Celery, on one or several engines of this process."""

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
    """In-memory `SharedContexts`. Counts the parses."""

    def __init__(self) -> None:
        self.packed: dict[str, bytes] = {}
        self.indexes: dict[str, bytes] = {}
        self.parses = 0

    def load(self, key: str) -> bytes | None:
        """See `workers.engine.interface.SharedContexts`."""
        return self.packed.get(key)

    def save(self, key: str, packed: bytes) -> None:
        """See `workers.engine.interface.SharedContexts`. Called once for each parse."""
        self.parses += 1
        self.packed[key] = packed

    def index(self, family: str) -> bytes | None:
        """See `workers.engine.interface.SharedContexts`."""
        return self.indexes.get(family)

    def save_index(self, family: str, index: bytes) -> None:
        """See `workers.engine.interface.SharedContexts`."""
        self.indexes[family] = index


def spec_for(project: Path, *args: str, env: Mapping[str, str] | None = None, **more: Any) -> RunSpec:
    """Specification of a run of dbt's arguments in a project."""
    return RunSpec(
        run_id=uuid.uuid4().hex[:12], args=args, cwd=str(project), project_dir=str(project),
        env={**os.environ, **(env or {})}, invocation_id=str(uuid.uuid4()), started_at=time.time(), **more,
    )  # fmt: skip


@dataclass
class Ran:
    """A run that has ended."""

    finished: Finished
    plan: Plan | None = None
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Lines of dbt's console."""
        return [event.text for event in self.events if event.kind == LINE and event.stream != STDERR]

    @property
    def errors(self) -> list[str]:
        """Lines that the steps wrote to stderr."""
        return [event.text for event in self.events if event.stream == STDERR]

    @property
    def statuses(self) -> dict[str, str]:
        """Status of each entry of the run results, by node name."""
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
    """Execute a run: plan, start, every node after its parents, close.

    The engines take turns at the steps. Results and facts are encoded as JSON between steps, as in the ledger.
    """
    turn = itertools.cycle(engines if isinstance(engines, Sequence) else [engines])
    events: list[Event] = []
    stream: list[bytes] = []

    def changes(position: int) -> list[bytes]:
        return stream[position:]

    stored: list[StepResult] = []

    def finished(position: int) -> list[StepResult]:
        return stored[position:]

    def keep(outcome: StepOutcome) -> StepOutcome:
        stream.extend(change.encode() for change in outcome.cache)
        stored.append(replace_result(outcome).result)
        return outcome

    ran = Ran(Finished(return_code=2), events=events)
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
        skips, numbers = dict[str, str](), itertools.count(1)
        stop = started.stop
        while waiting and stop is None:
            ready = min(name for name, parents in waiting.items() if not parents)
            del waiting[ready]
            cause = ran.outcomes.get(skips.get(ready, ""))
            outcome = keep(
                next(turn).node(
                    spec, facts, ready, 0 if ready in ephemeral else next(numbers), events.append,
                    changes=changes, finished=finished, attempt=attempt, skip=ready in skips,
                    cause=None if cause is None else cause.result,
                )
            )  # fmt: skip
            ran.outcomes[ready] = outcome
            stop = outcome.stop
            if outcome.blocks:
                skips.update(dict.fromkeys(_descendants(ready, children), ready))
            for parents in waiting.values():
                parents.discard(ready)
        results = [outcome.result for outcome in ran.outcomes.values()]
        ran.finished = next(turn).close(
            spec, facts, started.result, results, events.append, changes=changes, stop=stop
        )
    except CommandFailedError as failed:
        ran.finished = failed.finished
    return ran


def _descendants(node: str, children: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    reached = list(children[node])
    while reached:
        child = reached.pop()
        if child not in found:  # there may be many paths to a node
            found.add(child)
            reached.extend(children[child])
    return found


def replace_result(outcome: StepOutcome) -> StepOutcome:
    """Encode and decode the result, as it is passed between processes. Returns the outcome."""
    outcome.result = msgspec.json.decode(encode(outcome.result), type=StepResult)
    return outcome
