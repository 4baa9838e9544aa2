"""Executes one dbt node, or skips it."""

from __future__ import annotations

import msgspec

from workers.contract.errors import Category
from workers.engine.engine import CommandFailedError
from workers.engine.interface import StepOutcome, StepResult, failed_node
from workers.runs import failures
from workers.runs.claimed_step import ClaimedStep
from workers.runs.execution import call_engine
from workers.runs.outcome import Outcome, StepEnded
from workers.supervision.time_limits import limits_of


def execute(step: ClaimedStep) -> Outcome:
    """Let dbt execute the node within its time limits, or skip it where a parent failed.

    Raises:
        StepInterrupted: see `call_engine`.
    """
    leases = step.runtime.leases
    try:
        outcome = _execute(step)
    except CommandFailedError as failed:
        error = failed.finished.error or failures.refused(
            "dbt ended without a result of the node", Category.INTERNAL
        )
        error = msgspec.structs.replace(error, node=step.claim.step)
        outcome = failed_node(step.claim.step, error, worker=step.runtime.owner, began=step.began)
    return StepEnded(outcome, overrun=leases.overrun, interrupted=leases.why)


def _execute(step: ClaimedStep) -> StepOutcome:
    runtime, run, claim = step.runtime, step.run, step.claim
    facts, ledger, leases = run.planned, runtime.ledger, runtime.leases
    cause = ledger.result(claim.run_id, claim.cause) if claim.skip else None
    return call_engine(
        runtime,
        lambda: runtime.engine.node(
            run.spec, facts, claim.step, claim.index, runtime.emit,
            changes=lambda position: ledger.cache_changes(claim.run_id, position),
            finished=lambda position: [
                None if raw is None else msgspec.json.decode(raw, type=StepResult)
                for raw in ledger.results_since(claim.run_id, position)
            ],
            attempt=claim.tries, skip=claim.skip, stale=claim.stale,
            cause=None if cause is None else msgspec.json.decode(cause, type=StepResult),
            time_limit_message=lambda: leases.overrun.text if leases.overrun else None,
        ),
        limits_of(run.request.limits, facts.limits.get(claim.step)),
        fail_fast=facts.fail_fast,
    )  # fmt: skip
