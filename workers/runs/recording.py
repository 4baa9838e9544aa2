"""Writes a decision into the ledger, and sends the messages of the steps that became ready by it.

One script of the ledger makes a decision valid (what is written before it can be written again), so a process that dies
leaves the run as it was before or after it. Before: the lease runs out and the step is executed again. After: its messages may not have been sent, and the reaper sends
them. The fence refuses a process that records too late or twice. How a run ends is in `run_end`.
"""

from __future__ import annotations

import time

import msgspec

from workers.contract.errors import Category, DbtError, InvalidMessageError
from workers.contract.events import STATE, Event
from workers.contract.log import log
from workers.contract.results import RUN_FAILED, WAITING
from workers.engine.interface import Finished, StepResult, encode, failed_node
from workers.ledger.records import Claim, Move
from workers.runs import failures
from workers.runs.claimed_step import Answer, ClaimedStep
from workers.runs.decision import (
    Decision,
    EndRun,
    FailNode,
    HandBack,
    Requeue,
    Reroute,
    Retry,
    StageNodes,
    StoreResult,
    Withdraw,
)
from workers.runs.final_record import make_final_record
from workers.runs.run_end import end_run
from workers.runs.runtime import Runtime
from workers.runs.task_errors import StepFailedError, TransientStepError
from workers.runs.writing import attempt_of, close_connections, when_there_is_room
from workers.supervision.lease_renewal import DRAIN, LOST, STOP


def record(step: ClaimedStep, decision: Decision) -> Answer:
    """Record what was decided about a step.

    Returns:
        the answer of the step's task.

    Raises:
        TransientStepError: the step is tried again; Celery has to bring its message back.
        StepFailedError: the node failed; its result is recorded.
        FenceLostError: the step belongs to another process by now; nothing is recorded.
        StepInterrupted: Redis was full, and the step must not wait for room any longer; nothing is recorded.
    """
    step.runtime.emit_withheld(kept=not isinstance(decision, HandBack))
    match decision:
        case StageNodes():
            answer = _stage_nodes(step, decision)
        case StoreResult():
            answer = _store_result(step, decision)
        case FailNode(error=error):
            outcome = failed_node(step.claim.step, error, worker=step.runtime.owner, began=step.began)
            answer = _store_result(step, StoreResult(outcome))
        case Retry():
            answer = _retry(step, decision)
        case HandBack() | Requeue() | Withdraw():
            answer = _give_back(step, decision)
        case Reroute():
            answer = _reroute(step, decision)
        case EndRun():
            answer = end_run(step, decision)
        case _:
            raise TypeError(f"nothing to record: {decision}")
    return answer


def _stage_nodes(step: ClaimedStep, decision: StageNodes) -> Answer:
    runtime, claim, planned = step.runtime, step.claim, decision.planned
    when_there_is_room(
        runtime, claim, lambda: runtime.ledger.stage(claim, planned.nodes, roots=planned.roots)
    )
    due = runtime.ledger.finish(
        claim, Move(word="planned", facts=planned.facts, nodes=len(planned.nodes)),
        attempt=attempt_of(step, "success", None),
    )  # fmt: skip
    runtime.send(claim.run_id, due)
    runtime.keep(step.run, planned.facts)
    return {"run": claim.run_id, "nodes": len(planned.nodes)}


def _store_result(step: ClaimedStep, decision: StoreResult) -> Answer:
    runtime, claim, outcome = step.runtime, step.claim, decision.outcome
    result = outcome.result
    if result.error is not None:
        result.error = msgspec.structs.replace(result.error, attempts=claim.tries)
    move = Move(
        word=result.status, blocks=outcome.blocks, stop=outcome.stop, cache=outcome.cache,
        facts=decision.facts,
    )  # fmt: skip
    due = runtime.ledger.finish(
        claim, move, result=encode(result), attempt=attempt_of(step, result.status, result.error)
    )
    runtime.send(claim.run_id, due)
    if decision.facts is not None:
        runtime.keep(step.run, decision.facts)
    if decision.overran:
        # the exception may have come at any moment: no state that it may have interrupted is used again
        runtime.engine.forget(claim.run_id)
        close_connections(runtime, interrupted=True)
    if not claim.step.startswith("@") and result.status in {"error", "fail", "partial success"}:
        raise _failure_of(claim.step, result)
    return {"run": claim.run_id, "node": claim.step, "status": result.status}


def _failure_of(step: str, result: StepResult) -> StepFailedError:
    """The failure of a node: its code, what happened, and what to do about it."""
    info = result.error
    if info is None:
        return StepFailedError(f"{step}: {result.message}")
    fix = f" Fix: {info.suggested_fix}" if info.suggested_fix else ""
    return StepFailedError(f"{info.code}: {info.message}{fix}", info.detail)


def _retry(step: ClaimedStep, decision: Retry) -> Answer:
    runtime, claim, error, delay = step.runtime, step.claim, decision.error, decision.delay
    attempt = attempt_of(step, "error", error)
    runtime.send(claim.run_id, runtime.ledger.give_back(claim, "retry", wait=delay, attempt=attempt))
    log("will be tried again", run=claim.run_id, node=claim.step, attempt=claim.tries,
        reason=error.code, wait=round(delay, 2))  # fmt: skip
    if decision.waits_for:
        text = f"waiting for {decision.waits_for}; tried again in {delay:.1f} s"
        runtime.progress.emit(
            Event(kind=STATE, run_id=claim.run_id, node=claim.step, state=WAITING, text=text, level="warn",
                  attempt=claim.tries, at=time.time(), worker=runtime.owner)
        )  # fmt: skip
        runtime.progress.flush()
    raise TransientStepError(f"{error.code}: {error.message}", delay, claim.run_id, claim.step)


def _give_back(step: ClaimedStep, decision: HandBack | Requeue | Withdraw) -> Answer:
    """Put back a step that was interrupted."""
    runtime, claim = step.runtime, step.claim
    runtime.engine.forget(claim.run_id)
    if isinstance(decision, HandBack):
        runtime.engine.release()  # nothing of it goes on when the next execution begins
        why, due = DRAIN, runtime.ledger.give_back(
            claim, "handback", attempt=attempt_of(step, "handed back", None)
        )  # fmt: skip
        log("handed back", run=claim.run_id, node=claim.step, worker=runtime.owner)
    elif isinstance(decision, Requeue):
        runtime.engine.release()
        # it did begin, so this counts as a try; Celery does not bring it back
        why, due = LOST, (claim.step, *runtime.ledger.give_back(claim, "retry"))
    else:
        why, due = STOP, runtime.ledger.give_back(claim, "release")
    runtime.send(claim.run_id, due)
    return {"run": claim.run_id, "step": claim.step, "interrupted": why}


def _reroute(step: ClaimedStep, decision: Reroute) -> Answer:
    runtime, claim, rerouted = step.runtime, step.claim, decision.rerouted
    runtime.forget(claim.run_id)
    runtime.send(claim.run_id, runtime.ledger.give_back(claim, "release", facts=rerouted.facts))
    return {"run": claim.run_id, **rerouted.why}


def record_unreadable(runtime: Runtime, claim: Claim, error: DbtError) -> StepFailedError:
    """End a run whose request this worker cannot use; the failure to raise for Celery."""
    close_connections(runtime, interrupted=False)
    category = Category.MESSAGE if isinstance(error, InvalidMessageError) else Category.USAGE
    finished = Finished(return_code=2, error=failures.refused(str(error), category))
    final = make_final_record(finished, [], []).decode()
    move = Move(word="error", final_state=RUN_FAILED, final=final)
    runtime.send(claim.run_id, runtime.ledger.finish(claim, move))
    return StepFailedError(str(error))
