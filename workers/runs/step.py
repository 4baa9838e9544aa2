"""Claims a step, executes it, and records its outcome.

Each part is a module, which imports only those before it:

1. `claiming` asks the ledger for the step that a Celery message names. The message is only a hint.
2. `preparation` checks the project and the files of the warehouse.
3. `plan`, `start`, `node`, `close` and `command` call the engine (`execution`) and return an `outcome`.
4. `decision` decides what follows from claim, outcome and retry policy.
5. `recording` writes that into the ledger and sends the messages of the steps that may start now (`sending`). The
   process that planned a run may execute the next step without a message (`continuation`).

The lease of the step is renewed from 2 to 5. If the process dies in between, the step is executed again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from workers.app import settings
from workers.contract.errors import DbtUsageError, InvalidMessageError
from workers.contract.keys import STEP_COMMAND, STEP_PLAN, STEP_START
from workers.contract.log import phase
from workers.engine.engine import CommandFailedError
from workers.engine.warehouse.fencing import StepExecution
from workers.ledger.records import Claim, FenceLostError, Refusal
from workers.runs.claimed_step import Answer, ClaimedStep
from workers.runs.claiming import accept, answer_refusal, claim_step
from workers.runs.decision import EXECUTE, Decision, decide
from workers.runs.outcome import Interrupted, Outcome, RunEnded
from workers.runs.preparation import prepare
from workers.runs.recording import record, record_unreadable
from workers.runs.runtime import Runtime, process_runtime
from workers.runs.sending import send_messages
from workers.supervision.lease_renewal import StepInterrupted

Execute = Callable[[ClaimedStep], Outcome]


def perform(execute: Execute, task_id: str, run_id: Any, step: Any, version: Any) -> Answer:
    """Do what a Celery message asks for, if the ledger grants the step.

    Args:
        execute: of the kind of the step.
        run_id, step, version: the body of the message, not yet validated.

    Returns:
        the answer of the task.

    Raises:
        TransientStepError, StepFailedError: see `record`.
        celery.exceptions.Ignore: the message is not valid.
    """
    runtime = process_runtime()
    message = accept(runtime, run_id, step, version)
    claim, inside_session = claim_step(runtime, message, task_id)
    if isinstance(claim, Refusal):
        return answer_refusal(runtime, message, claim)
    # none of them is kept for this process: it executes the claimed step first
    send_messages(runtime.ledger, claim.run_id, claim.publish)
    try:
        with _leased(runtime, claim):
            return _carry_out(runtime, claim, execute)
    except FenceLostError as error:
        runtime.engine.forget(claim.run_id)
        return {"run": claim.run_id, "step": claim.step, "refused": f"not recorded: {error}"}
    finally:
        if not inside_session:
            runtime.engine.release()


@contextmanager
def _leased(runtime: Runtime, claim: Claim) -> Iterator[None]:
    """Renew the lease of a claim, and fence off its earlier executions at the warehouse."""
    with (
        runtime.leases.holding(claim),
        runtime.engine.fenced(execution_of(runtime, claim)),
        phase("step", run=claim.run_id, node=claim.step, attempt=claim.tries, worker=runtime.owner),
    ):
        yield


def execution_of(runtime: Runtime, claim: Claim) -> StepExecution:
    """What the warehouse needs to know of an execution."""
    return StepExecution(
        run_id=claim.run_id, step=claim.step, fence=claim.fence, has_predecessors=claim.tries > 1,
        supersedes_run=claim.lost_leases, check_lease=runtime.leases.assure,
    )  # fmt: skip


def _carry_out(runtime: Runtime, claim: Claim, execute: Execute) -> Answer:
    first = claim.step in {STEP_PLAN, STEP_COMMAND}
    try:
        run = runtime.run(claim.run_id, begun=not first and claim.step != STEP_START)
        if run is None:
            return {"run": claim.run_id, "refused": "unknown run"}
        step = ClaimedStep(runtime, run, claim, began=time.time())
        if first and not run.spec.invocation_id:
            run.spec = msgspec.structs.replace(
                run.spec, invocation_id=str(uuid.uuid4()), started_at=step.began
            )
        try:
            return record(step, _decision(step, execute))
        except StepInterrupted as interruption:
            why = interruption.why
        # outside of the except block: the traceback keeps connections of dbt alive
        return record(step, _decide(step, Interrupted(why)))
    except (DbtUsageError, InvalidMessageError) as error:
        raise record_unreadable(runtime, claim, error) from error


def _decision(step: ClaimedStep, execute: Execute) -> Decision:
    """What to do about a step: decided before it is executed where that is possible."""
    decision = _decide(step, None)
    if decision is EXECUTE:
        obstacle = prepare(step)
        if obstacle is not None:
            decision = _decide(step, obstacle)
    if decision is EXECUTE:
        decision = _decide(step, _outcome(step, execute))
    return decision


def _decide(step: ClaimedStep, outcome: Outcome | None) -> Decision:
    return decide(step.claim, outcome, step.run.request.retry, settings.max_losses)


def _outcome(step: ClaimedStep, execute: Execute) -> Outcome:
    try:
        return execute(step)
    except CommandFailedError as failed:
        return RunEnded(failed.finished, [], gave_up=True, interrupted=step.runtime.leases.why)
