"""Executes a command that is not split into nodes."""

from __future__ import annotations

from workers.engine.engine import CommandFailedError
from workers.runs.claimed_step import ClaimedStep
from workers.runs.execution import call_engine
from workers.runs.outcome import Outcome, Rerouted, RunEnded
from workers.runs.retried_run import previous_results


def execute(step: ClaimedStep) -> Outcome:
    """Let dbt execute the whole command. One that needs a single-process warehouse is left to a session.

    Raises:
        StepInterrupted, CommandFailedError: see `call_engine`.
    """
    runtime, run, claim = step.runtime, step.run, step.claim
    name = run.request.first_word
    if run.lock is None and not run.whole:
        warehouse = call_engine(runtime, lambda: runtime.engine.warehouse(run.spec, name))
        if warehouse is not None:
            facts = {
                "mode": "session", "lock": warehouse, "invocation_id": run.spec.invocation_id,
                "started_at": repr(run.spec.started_at), "dbt": runtime.ledger.dbt,
            }  # fmt: skip
            return Rerouted(facts, {"warehouse": warehouse})
    try:
        previous = previous_results(runtime.ledger, run)
        finished = call_engine(
            runtime,
            lambda: runtime.engine.command(
                run.spec, name, runtime.emit, attempt=claim.tries, previous=previous
            ),
        )
    except CommandFailedError as failed:
        finished = failed.finished
    return RunEnded(finished, finished.results, interrupted=runtime.leases.why)
