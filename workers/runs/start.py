"""Starts a planned run: schemas, relation cache and on-run-start hooks."""

from __future__ import annotations

from workers.runs.claimed_step import ClaimedStep
from workers.runs.execution import call_engine
from workers.runs.outcome import Outcome, StepEnded


def execute(step: ClaimedStep) -> Outcome:
    """Do what dbt does once before the first node.

    Raises:
        StepInterrupted, CommandFailedError: see `call_engine`.
    """
    runtime, run = step.runtime, step.run
    outcome = call_engine(
        runtime,
        lambda: runtime.engine.start(run.spec, run.planned, runtime.emit, attempt=step.claim.tries),
    )
    return StepEnded(outcome, facts={"began": repr(step.began)}, interrupted=runtime.leases.why)
