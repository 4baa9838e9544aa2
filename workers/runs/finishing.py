"""How a run ends, and how a step does that was stopped, or that no worker survives.

The result of a run is the last thing that is stored of it: when it can be read, every connection is closed,
and nothing follows but reading.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from workers.app import settings
from workers.contract.environment import CALLERS, NAMES
from workers.contract.errors import Category, DbtError, ErrorInfo, InvalidMessageError
from workers.contract.events import REPEATED, STATE, Event
from workers.contract.keys import STEP_COMMAND, STEP_PLAN, STEP_START
from workers.contract.log import log
from workers.contract.messages import RunRequest, encode_request
from workers.contract.results import RUN_CANCELLED, RUN_FAILED, RUN_SUCCEEDED, Attempt
from workers.contract.run_store import ENV_NAMES
from workers.engine.interface import Finished, StepResult
from workers.ledger.records import Claim, FenceLostError, Move
from workers.runs import env_file, final_record
from workers.runs.runtime import Run, Runtime
from workers.supervision.lease_renewal import DRAIN, LOST, StepInterrupted


def when_there_is_room(runtime: Runtime, claim: Claim, write: Callable[[], None]) -> None:
    """Do what a full Redis refuses; the step keeps its lease meanwhile, and can be stopped."""
    while True:
        try:
            return write()
        except redis.OutOfMemoryError:  # noqa: PERF203 - once a second
            log("Redis is full (maxmemory), waiting for room", level=logging.WARNING, run=claim.run_id,
                node=claim.step)  # fmt: skip
            with runtime.leases.interruptible():
                time.sleep(1)


def attempt_of(runtime: Runtime, claim: Claim, began: float, status: str, error: ErrorInfo | None) -> Attempt:
    """What the run keeps of one execution of a step, which ends now. `began`: seconds since the epoch, UTC."""
    return Attempt(
        step=claim.step, number=claim.tries, worker=runtime.owner, started_at=began,
        finished_at=time.time(), status=status, error=error,
    )  # fmt: skip


def let_go(runtime: Runtime, *, interrupted: bool) -> None:
    """Close every connection, also those that an exception in the middle of dbt's work left to be collected."""
    if interrupted:
        gc.collect()
    runtime.engine.release()


def give_up(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    """End a run one of whose own steps ended its worker too often: it would for ever."""
    began = time.time()
    error = final_record.worker_lost(claim, began).result.error
    raw = runtime.ledger.results(claim.run_id)
    raw.pop(STEP_START, None)
    steps = [msgspec.json.decode(body, type=StepResult) for body in raw.values()]
    finished = Finished(return_code=2, error=error and msgspec.structs.replace(error, node=None))
    return end_run(
        runtime, run, claim, began, finished, steps, stop=runtime.ledger.fact(claim.run_id, "stop")
    )


def end_orphaned(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    """End a run that was stopped, without its dbt: no worker has the release that planned it. Its end hooks do
    not run."""
    raw, attempts, stop = runtime.ledger.outcomes(claim.run_id)
    raw.pop(STEP_START, None)
    steps = [msgspec.json.decode(body, type=StepResult) for body in raw.values()]
    finished = Finished(return_code=1)
    return end_run(
        runtime, run, claim, time.time(), finished, steps, stop=stop or "cancelled", attempts=attempts
    )


def end_cancelled(runtime: Runtime, run: Run, claim: Claim, began: float) -> dict[str, Any]:
    """End a run that was cancelled before any of it executed."""
    reason = runtime.ledger.fact(claim.run_id, "stop") or "cancelled"
    return end_run(runtime, run, claim, began, Finished(return_code=1), [], stop=reason)


def _stopped(runtime: Runtime, run: Run, reason: str, steps: list[StepResult]) -> ErrorInfo:
    run_id = run.request.run_id
    if runtime.ledger.fact(run_id, "late") is None:
        return final_record.cancelled(reason)
    planned = run.facts.flattened if run.facts is not None else ()
    return final_record.late(reason, run_id, planned, {step.unique_id for step in steps})


def end_run(
    runtime: Runtime,
    run: Run,
    claim: Claim,
    began: float,
    finished: Finished,
    steps: list[StepResult],
    *,
    stop: str | None = None,
    attempts: list[Attempt] | None = None,
) -> dict[str, Any]:
    """Store the run's result; nothing of it happens afterwards but reading.

    Args:
        stop: why it was stopped, where it was.
        attempts: those that ended before, where they were read already.
    """
    let_go(
        runtime, interrupted=stop is not None
    )  # the caller may open the file the moment the result is there
    cancelled = stop is not None and stop != "fail_fast"
    if cancelled:
        finished.return_code = finished.return_code or 1
        finished.error = _stopped(runtime, run, stop or "cancelled", steps)
    state = RUN_CANCELLED if cancelled else RUN_SUCCEEDED if finished.return_code == 0 else RUN_FAILED
    if finished.error is not None and claim.tries > 1:
        finished.error = msgspec.structs.replace(finished.error, attempts=claim.tries)
    attempt = attempt_of(runtime, claim, began, state, finished.error)
    before = runtime.ledger.attempts(claim.run_id) if attempts is None else attempts
    warnings = final_record.repetitions(run.request.first_word, finished, [*before, attempt])
    final = final_record.final_of(finished, steps, [*before, attempt], warnings)
    if run.request.return_artifacts:
        when_there_is_room(
            runtime,
            claim,
            lambda: final_record.return_artifacts(
                runtime.ledger, run.request, run.spec, finished.target_path
            ),
        )
    move = Move(
        word="done" if finished.return_code == 0 else "error", final_state=state,
        final=final.decode(), facts=_without_environment(run.request),
    )  # fmt: skip
    _warn(runtime, claim, warnings)
    # runs that waited for this one's turn or relations
    runtime.publish(claim.run_id, runtime.ledger.finish(claim, move, attempt=attempt))
    if run.request.env_file is not None:  # its caller may be gone
        env_file.remove(run.request.env_file, settings)
    runtime.forget(claim.run_id)
    runtime.engine.forget(claim.run_id)
    log("run ended", run=claim.run_id, state=state, return_code=finished.return_code, worker=runtime.owner)
    return {"run": claim.run_id, "state": state, "return_code": finished.return_code}


def _warn(runtime: Runtime, claim: Claim, warnings: dict[str, str]) -> None:
    """Publish warnings about steps of a run, before its result."""
    for step, text in warnings.items():
        log("executed again", level=logging.WARNING, run=claim.run_id, node=step, reason=text)
        runtime.progress.emit(
            Event(kind=STATE, run_id=claim.run_id, node=step, state=REPEATED, text=text, level="warn",
                  at=time.time(), worker=runtime.owner)
        )  # fmt: skip
    if warnings:
        runtime.progress.flush()


def _without_environment(request: RunRequest) -> dict[str, str | int | float] | None:
    """What replaces the request of a run that ends: values of its caller's environment are not kept, their
    names are."""
    if not request.env:
        return None
    kept = msgspec.structs.replace(request, env={NAMES: request.env[NAMES]} if NAMES in request.env else {})
    names = msgspec.json.encode(
        [name for name in sorted(request.env) if not name.startswith(CALLERS)]
    ).decode()
    return {"request": encode_request(kept).decode(), ENV_NAMES: names}


def end_unread(runtime: Runtime, claim: Claim, error: DbtError) -> None:
    """End a run whose request this worker cannot use."""
    let_go(runtime, interrupted=False)
    finished = Finished(
        return_code=2,
        error=final_record.refused(str(error), Category.MESSAGE if isinstance(error, InvalidMessageError)
                              else Category.USAGE),
    )  # fmt: skip
    final = final_record.bare_final(finished)
    move = Move(word="error", final_state=RUN_FAILED, final=final.decode())
    runtime.publish(claim.run_id, runtime.ledger.finish(claim, move))


def end_interrupted(
    runtime: Runtime, claim: Claim, interruption: StepInterrupted, began: float
) -> dict[str, Any]:
    """Give back, or end, what must not go on here; the task's answer says why."""
    answer = {"run": claim.run_id, "step": claim.step, "interrupted": interruption.why}
    try:
        if interruption.why in (DRAIN, LOST):
            runtime.engine.release()  # nothing of it goes on when the next one begins
        if interruption.why == DRAIN:
            attempt = attempt_of(runtime, claim, began, "handed back", None)
            runtime.publish(claim.run_id, runtime.ledger.give_back(claim, "handback", attempt=attempt))
            log("handed back", run=claim.run_id, node=claim.step, worker=runtime.owner)
        elif interruption.why == LOST:
            # where Redis was only out of reach and nobody has it yet; it did begin, so this counts as a try
            following = runtime.ledger.give_back(claim, "retry")
            runtime.publish(claim.run_id, (claim.step, *following))
        elif claim.step in (STEP_PLAN, STEP_COMMAND):
            request = runtime.run(claim.run_id)
            if request is not None:
                end_cancelled(runtime, request, claim, began)
        else:
            runtime.publish(claim.run_id, runtime.ledger.give_back(claim, "release"))
    except FenceLostError:
        answer["interrupted"] = LOST
    return answer
