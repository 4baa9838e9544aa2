"""What each step of a run does: plan, start, node, close, command.

Each takes a claimed step and stores what it gave in one move of the ledger, which also releases what
waited for it; the messages of those are sent afterwards, and the reaper sends them should this process
die in between.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from workers.app import settings
from workers.contract.errors import Category, DbtError, ErrorInfo
from workers.contract.errors.classify import Failure, classify
from workers.contract.events import STATE, Event
from workers.contract.keys import SESSION, STEP_START
from workers.contract.log import log
from workers.contract.results import BAD_STATUSES, WAITING
from workers.engine.engine import CommandFailedError
from workers.engine.interface import Finished, RunFacts, StepOutcome, StepResult, encode
from workers.ledger.records import Claim, Move, StagedNode
from workers.runs import final_record
from workers.runs.finishing import attempt_of, end_cancelled, end_run, let_go, when_there_is_room
from workers.runs.project_check import check_project
from workers.runs.retry_policy import delay_before, may_retry
from workers.runs.runtime import Run, Runtime
from workers.sessions.file_locks import first_locked
from workers.supervision.lease_renewal import DRAIN, StepInterrupted
from workers.supervision.time_limits import NodeLimits, limits_of

Answer = TypeVar("Answer")

GOES_ON = "goes on"
"""In a plan's answer: whether its process is to begin the session, whose message was not sent."""


class PassingError(Exception):
    """A step failed for a reason that may pass. Celery's autoretry brings its message back.

    Attributes:
        delay: seconds before the next attempt.
        run_id, step: of which run, and which step of it.
    """

    def __init__(self, message: str, delay: float, run_id: str, step: str) -> None:
        super().__init__(message)
        self.delay, self.run_id, self.step = delay, run_id, step

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.delay, self.run_id, self.step))


class StepFailedError(Exception):
    """A step ended badly. The ledger has the result; Celery and Flower show the failure.

    Attributes:
        detail: dbt's own text, which Flower shows in place of a traceback.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.detail))


def _failed(step: str, result: StepResult) -> StepFailedError:
    """The failure of a node: its code, what happened, and what to do about it."""
    info = result.error
    if info is None:
        return StepFailedError(f"{step}: {result.message}")
    fix = f" Fix: {info.suggested_fix}" if info.suggested_fix else ""
    return StepFailedError(f"{info.code}: {info.message}{fix}", info.detail)


def _execute(
    runtime: Runtime, work: Callable[[], Answer], limits: NodeLimits | None = None, *, fail_fast: bool = False
) -> Answer:
    """Run the engine where it may be interrupted; its lines are on Redis before its result is.

    A query that was cancelled for a hand-back is an error to dbt, which may have taken it for the node's
    before the interruption came through. Neither that result counts nor what dbt says of it.
    """
    kept = False
    try:
        with runtime.leases.interruptible(limits, owner=runtime.owner, fail_fast=fail_fast):
            answer = work()
        kept = runtime.leases.why != DRAIN or not _is_bad(answer)
    except CommandFailedError:
        kept = runtime.leases.why != DRAIN
        if kept:
            runtime.leases.check()
            raise
    finally:
        runtime.settle(kept=kept or runtime.leases.why != DRAIN)
        runtime.progress.flush()
    if not kept:
        raise StepInterrupted(DRAIN)
    return answer


def _is_bad(answer: object) -> bool:
    if isinstance(answer, StepOutcome):
        return answer.result.status in BAD_STATUSES
    return isinstance(answer, Finished) and answer.return_code != 0


def _try_again(
    runtime: Runtime, run: Run, claim: Claim, began: float, error: ErrorInfo | None
) -> PassingError | None:
    """Give a step back for another attempt when its failure may pass; the exception to raise then."""
    policy, tries = run.request.retry, claim.tries - claim.handed
    if error is None or not may_retry(claim.step, error, tries, policy):
        return None
    delay = delay_before(tries, policy)
    attempt = attempt_of(runtime, claim, began, "error", error)
    runtime.publish(claim.run_id, runtime.ledger.give_back(claim, "retry", wait=delay, attempt=attempt))
    log("will be tried again", run=claim.run_id, node=claim.step, attempt=claim.tries,
        reason=error.code, wait=round(delay, 2))  # fmt: skip
    return PassingError(f"{error.code}: {error.message}", delay, claim.run_id, claim.step)


def _wait_for_files(runtime: Runtime, run: Run, claim: Claim, began: float) -> None:
    """Give a step back, with one line, where another program has a file of the run open.

    dbt would say it with its banner and a traceback for each connection, in each attempt. In the last attempt it does:
    the command then ends with dbt's own words.

    Raises:
        PassingError: the step is tried again.
    """
    if run.lock is None or runtime.engine.has_files_open():
        return
    locked = first_locked(run.lock)
    if locked is None:
        return
    error = classify(Failure(message=locked.as_duckdb_says, command=run.request.first_word, adapter="duckdb"))
    again = _try_again(runtime, run, claim, began, error)
    if again is None:
        return
    text = f"waiting for {locked.path}: {locked.who} has it open; tried again in {again.delay:.1f} s"
    runtime.progress.emit(
        Event(kind=STATE, run_id=claim.run_id, node=claim.step, state=WAITING, text=text, level="warn",
              attempt=claim.tries, at=time.time(), worker=runtime.owner)
    )  # fmt: skip
    runtime.progress.flush()
    raise again


def plan(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.stopping:
        return end_cancelled(runtime, run, claim, began)
    if run.whole:
        return command(runtime, run, claim)
    run.spec = msgspec.structs.replace(run.spec, invocation_id=str(uuid.uuid4()), started_at=began)
    try:
        check_project(run, runtime.owner)
        previous = _previous(runtime, run)
        planned = _execute(
            runtime,
            lambda: runtime.engine.plan(run.spec, runtime.say, attempt=claim.tries, previous=previous),
        )
    except CommandFailedError as failed:
        return end_run(runtime, run, claim, began, failed.finished, [])
    facts: dict[str, str | int | float] = {
        # digits that a script would round: every process has the same moment
        "invocation_id": run.spec.invocation_id, "started_at": repr(began),
        "mode": "session" if planned.warehouse else "message", "lock": planned.warehouse or "",
        "dbt": runtime.ledger.dbt,
    }  # fmt: skip
    if planned.whole is not None:
        runtime.forget(claim.run_id)
        runtime.publish(
            claim.run_id, runtime.ledger.give_back(claim, "release", facts={**facts, "whole": "1"})
        )
        return {"run": claim.run_id, "whole": planned.whole}
    if not planned.nodes:
        finished = _execute(
            runtime,
            lambda: runtime.engine.close(
                run.spec, planned.facts, None, [], runtime.say, changes=lambda _: []
            ),
        )
        return end_run(runtime, run, claim, began, finished, [])
    facts["facts"] = msgspec.json.encode(planned.facts).decode()
    facts["parallel"] = planned.threads
    facts["relation_locks"] = settings.relation_locks
    locked = settings.relation_locks != "off"
    roots = tuple(each.unique_id for each in planned.nodes if not each.parents)
    nodes = [
        StagedNode(
            each.unique_id,
            each.priority,
            max(1, len(each.parents)),
            each.children,
            each.ephemeral,
            each.lock if locked else "",
        )
        for each in planned.nodes
    ]
    when_there_is_room(runtime, claim, lambda: runtime.ledger.stage(claim, nodes, roots=roots))
    due = runtime.ledger.finish(
        claim, Move(word="planned", facts=facts, nodes=len(nodes)),
        attempt=attempt_of(runtime, claim, began, "success", None),
    )  # fmt: skip
    goes_on = _hand_out(runtime, claim.run_id, due)
    runtime.learn(run, facts)
    return {"run": claim.run_id, "nodes": len(nodes), GOES_ON: goes_on}


def _hand_out(runtime: Runtime, run_id: str, due: tuple[str, ...]) -> bool:
    """Send the messages of steps that are due, but for the run's session: this process has the project by now, and
    any other would have to load it. The answer is True then. What waits in the queue meanwhile waits no longer than
    ``DBT_RELAY_SESSION_SECONDS``."""
    goes_on = SESSION in due
    runtime.publish(run_id, tuple(step for step in due if step != SESSION or not goes_on))
    return goes_on


def _previous(runtime: Runtime, run: Run) -> dict[str, Any] | None:
    """Run results of the run that this one repeats in part, where it does."""
    if run.request.retry_of is None:
        return None
    last = runtime.ledger.final(run.request.retry_of)
    if last is None or last.run_results is None:
        error = final_record.refused(
            f"run {run.request.retry_of}, which was to be retried, is no longer kept", Category.USAGE
        )
        raise CommandFailedError(Finished(return_code=2, error=error))
    return last.run_results


def _facts(run: Run) -> RunFacts:
    if run.facts is None:
        raise DbtError(f"run {run.request.run_id} was not planned")
    return run.facts


def start(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    _wait_for_files(runtime, run, claim, began)
    try:
        check_project(run, runtime.owner)
        outcome = _execute(
            runtime,
            lambda: runtime.engine.start(run.spec, _facts(run), runtime.say, attempt=claim.tries),
        )
    except CommandFailedError as failed:
        again = _try_again(runtime, run, claim, began, failed.finished.error)
        if again is not None:
            raise again from None  # Celery sends the traceback to Flower, with the text of what caused it
        return end_run(runtime, run, claim, began, failed.finished, [])
    facts: dict[str, str | int | float] = {"began": repr(began)}
    answer = _store(runtime, claim, began, outcome, facts=facts)
    runtime.learn(run, facts)
    return answer


def node(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.losses >= settings.max_losses:
        return _store(runtime, claim, began, final_record.worker_lost(claim, began))
    if claim.busy:
        refused = final_record.relation_busy(claim, runtime.owner, began)
        _store(runtime, claim, began, refused)
        raise _failed(claim.step, refused.result)
    if not claim.skip:
        _wait_for_files(runtime, run, claim, began)
    cause = runtime.ledger.result(claim.run_id, claim.cause) if claim.skip else None
    facts = _facts(run)
    limits = limits_of(run.request.limits, facts.limits.get(claim.step))
    try:
        if not claim.skip:
            check_project(run, runtime.owner)
        outcome = _execute(
            runtime,
            lambda: runtime.engine.node(
                run.spec, facts, claim.step, claim.index, runtime.say,
                changes=lambda position: runtime.ledger.cache_changes(claim.run_id, position),
                attempt=claim.tries, skip=claim.skip, stale=claim.stale,
                cause=None if cause is None else msgspec.json.decode(cause, type=StepResult),
                time_limit_message=lambda: runtime.leases.overrun.text if runtime.leases.overrun else None,
            ),
            limits,
            fail_fast=facts.fail_fast,
        )  # fmt: skip
    except CommandFailedError as failed:
        outcome = final_record.failed_node(claim, failed.finished, runtime.owner, began)
    if outcome.result.error is not None:
        runtime.leases.check()
    overrun = runtime.leases.overrun
    if overrun is not None and outcome.result.error is not None and outcome.result.status != "fail":
        # it was cancelled: whatever dbt says of that, this is why (a test that found rows was done in time)
        outcome.result.error = overrun.error(claim.step, outcome.result.error)
    again = _try_again(runtime, run, claim, began, outcome.result.error)
    if again is not None:
        raise again
    answer = _store(runtime, claim, began, outcome)
    if overrun is not None:
        # the exception may have come at any moment: nothing of what it met is used again
        runtime.engine.forget(claim.run_id)
        let_go(runtime, interrupted=True)
    if outcome.result.status in {"error", "fail", "partial success"}:
        raise _failed(claim.step, outcome.result)
    return answer


def _store(
    runtime: Runtime,
    claim: Claim,
    began: float,
    outcome: StepOutcome,
    facts: dict[str, str | int | float] | None = None,
) -> dict[str, Any]:
    result = outcome.result
    if result.error is not None:
        result.error = msgspec.structs.replace(result.error, attempts=claim.tries)
    move = Move(
        word=result.status, blocks=outcome.blocks, stop=outcome.stop, cache=outcome.cache, facts=facts
    )
    publish = runtime.ledger.finish(
        claim, move, result=encode(result),
        attempt=attempt_of(runtime, claim, began, result.status, result.error),
    )  # fmt: skip
    runtime.publish(claim.run_id, publish)
    return {"run": claim.run_id, "node": claim.step, "status": result.status}


def close(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    _wait_for_files(runtime, run, claim, began)
    raw, attempts, stop = runtime.ledger.outcomes(claim.run_id)
    started = msgspec.json.decode(raw.pop(STEP_START), type=StepResult) if STEP_START in raw else None
    order = {attempt.step: place for place, attempt in enumerate(attempts)}
    steps = sorted(
        (msgspec.json.decode(body, type=StepResult) for body in raw.values()),
        key=lambda step: order.get(step.unique_id, 0),
    )
    try:
        finished = _execute(
            runtime,
            lambda: runtime.engine.close(
                run.spec, _facts(run), started, steps, runtime.say,
                changes=lambda position: runtime.ledger.cache_changes(claim.run_id, position),
                stop=stop, attempt=claim.tries,
            ),
        )  # fmt: skip
    except CommandFailedError as failed:
        again = _try_again(runtime, run, claim, began, failed.finished.error)
        if again is not None:
            raise again from None
        finished = failed.finished
    return end_run(runtime, run, claim, began, finished, steps, stop=stop, attempts=attempts)


def command(runtime: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.stopping:
        return end_cancelled(runtime, run, claim, began)
    try:
        check_project(run, runtime.owner)
    except CommandFailedError as failed:
        return end_run(runtime, run, claim, began, failed.finished, [])
    name = run.request.first_word
    if not run.spec.invocation_id:
        warehouse = _execute(runtime, lambda: runtime.engine.warehouse(run.spec, name))
        run.spec = msgspec.structs.replace(run.spec, invocation_id=str(uuid.uuid4()), started_at=began)
        if warehouse is not None and run.lock is None:
            facts: dict[str, str | int | float] = {
                "mode": "session", "lock": warehouse, "invocation_id": run.spec.invocation_id,
                "started_at": repr(began), "dbt": runtime.ledger.dbt,
            }  # fmt: skip
            runtime.forget(claim.run_id)
            runtime.publish(claim.run_id, runtime.ledger.give_back(claim, "release", facts=facts))
            return {"run": claim.run_id, "warehouse": warehouse}
    _wait_for_files(runtime, run, claim, began)
    try:
        finished = _execute(
            runtime,
            lambda: runtime.engine.command(
                run.spec, name, runtime.say, attempt=claim.tries, previous=_previous(runtime, run)
            ),
        )
    except CommandFailedError as failed:
        finished = failed.finished
    if finished.return_code:
        runtime.leases.check()
    again = _try_again(runtime, run, claim, began, finished.error)
    if again is not None:
        raise again
    return end_run(runtime, run, claim, began, finished, finished.results)
