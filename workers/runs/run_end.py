"""Ends a run. Its result is the last thing that is stored of it: when it can be read, every connection is closed, and
nothing follows but reading."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from workers.app import settings
from workers.contract.environment import CALLERS, NAMES
from workers.contract.errors import ErrorInfo
from workers.contract.events import REPEATED, STATE, Event
from workers.contract.keys import STEP_START
from workers.contract.log import log
from workers.contract.messages import RunRequest, encode_request
from workers.contract.results import RUN_CANCELLED, RUN_FAILED, RUN_SUCCEEDED
from workers.contract.run_store import ENV_NAMES
from workers.engine.interface import Finished, StepResult
from workers.ledger.records import Move
from workers.runs import env_file, failures
from workers.runs.artifacts import return_artifacts
from workers.runs.claimed_step import Answer, ClaimedStep
from workers.runs.decision import Cause, EndRun
from workers.runs.final_record import make_final_record, repetition_warnings
from workers.runs.outcome import RunEnded
from workers.runs.writing import attempt_of, close_connections, when_there_is_room


def end_run(step: ClaimedStep, decision: EndRun) -> Answer:
    """Store the result of a run.

    Raises:
        FenceLostError: the step belongs to another process by now.
        StepInterrupted: Redis was full, and the step must not wait for room any longer.
    """
    runtime, run, claim = step.runtime, step.run, step.claim
    ended = _ended(step, decision)
    finished, stop = ended.finished, ended.stop
    # the caller may open the warehouse's file the moment the result is there
    close_connections(runtime, interrupted=stop is not None)
    cancelled = stop is not None and stop != "fail_fast"
    if cancelled:
        finished.return_code = finished.return_code or 1
        finished.error = _error_of_stop(step, stop or "cancelled", ended.results)
    state = RUN_CANCELLED if cancelled else RUN_SUCCEEDED if finished.return_code == 0 else RUN_FAILED
    if finished.error is not None and claim.tries > 1:
        finished.error = msgspec.structs.replace(finished.error, attempts=claim.tries)
    attempt = attempt_of(step, state, finished.error)
    before = runtime.ledger.attempts(claim.run_id) if ended.attempts is None else ended.attempts
    warnings = repetition_warnings(run.request.first_word, finished, [*before, attempt])
    final = make_final_record(finished, ended.results, [*before, attempt], warnings)
    if run.request.return_artifacts:
        when_there_is_room(
            runtime, claim,
            lambda: return_artifacts(runtime.ledger, run.request, run.spec, finished.target_path),
            interruptible=decision.cause is not Cause.CANCELLED,  # it was interrupted for that
        )  # fmt: skip
    _publish_warnings(step, warnings)
    move = Move(
        word="done" if finished.return_code == 0 else "error", final_state=state,
        final=final.decode(), facts=_request_without_values(run.request),
    )  # fmt: skip
    # runs that waited for this run's turn or relations are told to go on
    runtime.send(claim.run_id, runtime.ledger.finish(claim, move, attempt=attempt))
    if run.request.env_file is not None:  # its caller may be gone
        env_file.remove(run.request.env_file, settings)
    runtime.forget(claim.run_id)
    runtime.engine.forget(claim.run_id)
    log("run ended", run=claim.run_id, state=state, return_code=finished.return_code, worker=runtime.owner)
    return {"run": claim.run_id, "state": state, "return_code": finished.return_code}


def _ended(step: ClaimedStep, decision: EndRun) -> RunEnded:
    """How the run ended, with what the ledger knows of it where dbt did not end it."""
    ledger, run_id = step.runtime.ledger, step.claim.run_id
    if decision.cause is Cause.DONE and decision.ended is not None:
        return decision.ended
    if decision.cause is Cause.CANCELLED:
        return RunEnded(Finished(return_code=1), [], stop=ledger.fact(run_id, "stop") or "cancelled")
    raw, attempts, stop = ledger.outcomes(run_id)
    raw.pop(STEP_START, None)
    results = [msgspec.json.decode(body, type=StepResult) for body in raw.values()]
    if decision.cause is Cause.ORPHANED:  # its end hooks do not run
        return RunEnded(Finished(return_code=1), results, stop=stop or "cancelled", attempts=attempts)
    error = decision.error and msgspec.structs.replace(decision.error, node=None)
    return RunEnded(Finished(return_code=2, error=error), results, stop=stop, attempts=attempts)


def _error_of_stop(step: ClaimedStep, reason: str, results: list[StepResult]) -> ErrorInfo:
    run_id, facts = step.claim.run_id, step.run.facts
    if step.runtime.ledger.fact(run_id, "late") is None:
        return failures.cancelled(reason)
    planned = facts.flattened if facts is not None else ()
    return failures.deadline_passed(reason, run_id, planned, {result.unique_id for result in results})


def _publish_warnings(step: ClaimedStep, warnings: dict[str, str]) -> None:
    runtime, run_id = step.runtime, step.claim.run_id
    for name, text in warnings.items():
        log("executed again", level=logging.WARNING, run=run_id, node=name, reason=text)
        runtime.progress.emit(
            Event(kind=STATE, run_id=run_id, node=name, state=REPEATED, text=text, level="warn",
                  at=time.time(), worker=runtime.owner)
        )  # fmt: skip
    if warnings:
        runtime.progress.flush()


def _request_without_values(request: RunRequest) -> dict[str, Any] | None:
    """What replaces the request of a run that ends: the values of its caller's environment are removed, their names
    are kept."""
    if not request.env:
        return None
    kept = msgspec.structs.replace(request, env={NAMES: request.env[NAMES]} if NAMES in request.env else {})
    names = msgspec.json.encode(
        [name for name in sorted(request.env) if not name.startswith(CALLERS)]
    ).decode()
    return {"request": encode_request(kept).decode(), ENV_NAMES: names}
