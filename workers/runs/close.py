"""Closes a run: on-run-end hooks, dbt's summary, the merged artifacts."""

from __future__ import annotations

import msgspec

from workers.contract.keys import STEP_START
from workers.engine.engine import CommandFailedError
from workers.engine.interface import StepResult
from workers.runs.claimed_step import ClaimedStep
from workers.runs.execution import call_engine
from workers.runs.outcome import Outcome, RunEnded


def execute(step: ClaimedStep) -> Outcome:
    """Do what dbt does once after the last node, with the results of all of them.

    Raises:
        StepInterrupted: see `call_engine`.
    """
    runtime, run, claim = step.runtime, step.run, step.claim
    raw, attempts, stop = runtime.ledger.outcomes(claim.run_id)
    started = msgspec.json.decode(raw.pop(STEP_START), type=StepResult) if STEP_START in raw else None
    order = {attempt.step: place for place, attempt in enumerate(attempts)}
    results = sorted(
        (msgspec.json.decode(body, type=StepResult) for body in raw.values()),
        key=lambda result: order.get(result.unique_id, 0),
    )
    gave_up = False
    try:
        finished = call_engine(
            runtime,
            lambda: runtime.engine.close(
                run.spec, run.planned, started, results, runtime.emit,
                changes=lambda position: runtime.ledger.cache_changes(claim.run_id, position),
                stop=stop, attempt=claim.tries,
            ),
        )  # fmt: skip
    except CommandFailedError as failed:
        finished, gave_up = failed.finished, True
    return RunEnded(finished, results, gave_up, stop, attempts, interrupted=runtime.leases.why)
