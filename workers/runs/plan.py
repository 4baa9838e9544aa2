"""Plans a run: dbt parses the project if anything changed and selects the nodes."""

from __future__ import annotations

import msgspec

from workers.app import settings
from workers.engine.interface import Plan
from workers.ledger.records import StagedNode
from workers.runs import command
from workers.runs.claimed_step import ClaimedStep
from workers.runs.execution import call_engine
from workers.runs.outcome import Outcome, Planned, Rerouted, RunEnded
from workers.runs.retried_run import previous_results


def execute(step: ClaimedStep) -> Outcome:
    """Let dbt plan the run, or execute it as one command where an earlier plan found that it cannot be split.

    Raises:
        StepInterrupted, CommandFailedError: see `call_engine`.
    """
    runtime, run, claim = step.runtime, step.run, step.claim
    if run.whole:
        return command.execute(step)
    previous = previous_results(runtime.ledger, run)
    plan = call_engine(
        runtime,
        lambda: runtime.engine.plan(run.spec, runtime.emit, attempt=claim.tries, previous=previous),
    )
    # repr: a script would round the digits, and every process has to have the same moment
    facts: dict[str, str | int | float] = {
        "invocation_id": run.spec.invocation_id, "started_at": repr(run.spec.started_at),
        "mode": "session" if plan.warehouse else "message", "lock": plan.warehouse or "",
        "dbt": runtime.ledger.dbt,
    }  # fmt: skip
    if plan.whole is not None:
        return Rerouted({**facts, "whole": "1"}, {"whole": plan.whole})
    if not plan.nodes:
        return _nothing_to_do(step, plan)
    facts["facts"] = msgspec.json.encode(plan.facts).decode()
    facts["parallel"] = plan.threads
    facts["relation_locks"] = settings.relation_locks
    roots = tuple(node.unique_id for node in plan.nodes if not node.parents)
    return Planned(_staged(plan), roots, facts)


def _nothing_to_do(step: ClaimedStep, plan: Plan) -> RunEnded:
    """Let dbt report that it selected no node."""
    runtime, spec = step.runtime, step.run.spec
    finished = call_engine(
        runtime,
        lambda: runtime.engine.close(spec, plan.facts, None, [], runtime.emit, changes=lambda _: []),
    )
    return RunEnded(finished, [], interrupted=runtime.leases.why)


def _staged(plan: Plan) -> tuple[StagedNode, ...]:
    """The planned nodes as the ledger takes them. A node without parents waits for the start step."""
    locked = settings.relation_locks != "off"
    return tuple(
        StagedNode(
            node.unique_id, node.priority, max(1, len(node.parents)), node.children, node.ephemeral,
            node.lock if locked else "",
        )
        for node in plan.nodes
    )  # fmt: skip
