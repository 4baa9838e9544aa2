"""The story of a run, top to bottom: plan, start, node, close; or one command; or a session.

A Celery message names a run and a step and is only a hint: each task first claims its step from the
ledger, and does nothing when that is refused. What a step gave is stored in one move that also
releases what waited for it, and the messages of those are sent afterwards; the reaper sends them
should this process die in between.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from celery import Task
from celery.app.trace import trace_task
from celery.exceptions import Ignore

from workers import reports
from workers.app import app, settings
from workers.contract.errors import Category, DbtError, DbtUsageError, ErrorInfo, InvalidMessageError
from workers.contract.log import log, phase
from workers.contract.messages import step_task
from workers.contract.names import (
    STEP_CLOSE,
    STEP_COMMAND,
    STEP_PLAN,
    STEP_START,
    TASK_CLOSE,
    TASK_COMMAND,
    TASK_NODE,
    TASK_PLAN,
    TASK_SESSION,
    TASK_START,
    task_name,
)
from workers.contract.results import RUN_CANCELLED, RUN_FAILED, RUN_SUCCEEDED, Attempt
from workers.engine.engine import CommandFailedError
from workers.engine.spec import Finished, RunFacts, StepOutcome, StepResult, encode
from workers.heart import LOST, StepInterrupted
from workers.ledger import SESSION, Claim, FenceLostError, Move, Refusal, StagedNode
from workers.retries import delay_before, may_retry
from workers.runtime import Run, Runtime, runtime

Answer = TypeVar("Answer")


class PassingError(Exception):
    """A step failed for a reason that may pass. Celery's autoretry brings its message back."""

    def __init__(self, message: str, delay: float) -> None:
        super().__init__(message)
        self.delay = delay

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.delay))


class StepFailedError(Exception):
    """A step ended badly. The ledger has the result; Celery and Flower show the failure."""


class RelayTask(Task):  # type: ignore[misc]
    """Celery's autoretry with the wait that the run asked for; the ledger counts the attempts."""

    autoretry_for = (PassingError,)
    max_retries = None
    throws = (StepFailedError,)
    ignore_result = True

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Celery's, with the countdown of the run's own retry policy."""
        if isinstance(exc, PassingError):
            options["countdown"] = exc.delay
        return super().retry(*args, exc=exc, **options)


def _task(name: str) -> Callable[[Callable[..., Any]], Any]:
    return app.task(name=name, base=RelayTask, bind=True)  # type: ignore[no-any-return]


@_task(TASK_PLAN)
def plan(self: Task, run_id: Any, step: Any = STEP_PLAN, version: Any = 1) -> dict[str, Any]:
    """Let dbt select; stage its nodes; hand out the first step."""
    return _perform(self, run_id, step, version, _plan)


@_task(TASK_START)
def start(self: Task, run_id: Any, step: Any = STEP_START, version: Any = 1) -> dict[str, Any]:
    """Schemas, relation cache and on-run-start hooks."""
    return _perform(self, run_id, step, version, _start)


@_task(TASK_NODE)
def node(self: Task, run_id: Any, step: Any, version: Any = 1) -> dict[str, Any]:
    """One dbt node."""
    return _perform(self, run_id, step, version, _node)


@_task(TASK_CLOSE)
def close(self: Task, run_id: Any, step: Any = STEP_CLOSE, version: Any = 1) -> dict[str, Any]:
    """on-run-end hooks, the merged artifacts, and the run's result."""
    return _perform(self, run_id, step, version, _close)


@_task(TASK_COMMAND)
def command(self: Task, run_id: Any, step: Any = STEP_COMMAND, version: Any = 1) -> dict[str, Any]:
    """A command that is not split into nodes."""
    return _perform(self, run_id, step, version, _command)


@_task(TASK_SESSION)
def session(self: Task, run_id: Any, _step: Any = SESSION, version: Any = 1) -> dict[str, Any]:
    """Hold a single-process warehouse and execute whatever is ready of its run, step by step."""
    body = _accept(run_id, STEP_PLAN, version)
    held = runtime()
    run = held.run(body.run_id)
    if run is None or run.lock is None:
        return {"run": body.run_id, "refused": "no such run, or its warehouse takes many processes"}
    entered = held.locks.enter(body.run_id, run.lock, held.owner)
    if isinstance(entered, str):
        return {"run": body.run_id, "refused": entered}
    done = 0
    with held.heart.session(entered):
        try:
            while True:
                claim = held.ledger.claim(body.run_id, "", held.owner, session=entered.fence)
                if isinstance(claim, Refusal):
                    break
                _trace_as_own_task(self, claim)
                done += 1
        finally:
            held.engine.release()
            following = held.locks.leave(entered)
    if following:
        held.publish(following, (SESSION,))
    return {"run": body.run_id, "steps": done}


_handed: dict[str, Claim] = {}
"""Claims that a session made for the task (by id) that it is about to trace in this process."""


def _trace_as_own_task(parent: Task, claim: Claim) -> None:
    """Execute a claimed step as a Celery task of its own, in this process.

    Celery's tracer runs it, so that retries, logs and failures are Celery's; the events that the
    pool's parent would send (docs.celeryq.dev, "Task events") are sent here, so that Flower shows it.
    """
    name = task_name(claim.step)
    identity = str(uuid.uuid4())
    args = (claim.run_id, claim.step)
    _handed[identity] = claim
    request = {
        "id": identity, "task": name, "args": args, "kwargs": {}, "retries": 0, "is_eager": False,
        "hostname": parent.request.hostname, "delivery_info": {"routing_key": settings.queue},
        "root_id": parent.request.root_id, "parent_id": parent.request.id, "called_directly": False,
    }  # fmt: skip
    with app.events.default_dispatcher(hostname=parent.request.hostname) as events:
        said = {"uuid": identity, "name": name, "args": repr(args), "kwargs": "{}"}
        events.send("task-received", retries=0, root_id=parent.request.root_id,
                    parent_id=parent.request.id, eta=None, expires=None, **said)  # fmt: skip
        events.send("task-started", uuid=identity)
        began = time.monotonic()
        traced = trace_task(app.tasks[name], identity, args, {}, request, app=app)
        runtime_s = time.monotonic() - began
        if traced.info is None:
            events.send("task-succeeded", uuid=identity, result=repr(traced.retval), runtime=runtime_s)
        else:
            kind = "task-retried" if traced.info.state == "RETRY" else "task-failed"
            events.send(kind, uuid=identity, exception=repr(traced.info.retval), traceback="")


# -- the common part -------------------------------------------------------------------------------


def _accept(run_id: Any, step: Any, version: Any) -> Any:
    try:
        return step_task(run_id, step, version)
    except InvalidMessageError as error:
        runtime().ledger.count_rejected(str(error))
        log("message refused", reason=str(error))
        raise Ignore(str(error)) from error


def _perform(
    task: Task, run_id: Any, step: Any, version: Any, body: Callable[[Runtime, Run, Claim], dict[str, Any]]
) -> dict[str, Any]:
    """Claim the step, execute it under its lease, and see to whatever goes wrong around it."""
    message = _accept(run_id, step, version)
    held = runtime()
    handed = _handed.pop(task.request.id, None)
    inside_session = handed is not None
    granted = handed or held.ledger.claim(message.run_id, message.step, held.owner)
    if isinstance(granted, Refusal):
        held.publish(message.run_id, granted.publish)
        return {"run": message.run_id, "step": message.step, "refused": granted.reason}
    began = time.time()
    try:
        with held.heart.holding(granted), phase(
            "step", run=granted.run_id, node=granted.step, attempt=granted.tries, worker=held.owner
        ):
            try:
                run = held.run(granted.run_id)
                if run is None:
                    return {"run": granted.run_id, "refused": "unknown run"}
                return body(held, run, granted)
            except (DbtUsageError, InvalidMessageError) as error:
                _end_unread(held, granted, error)
                raise StepFailedError(str(error)) from error
    except FenceLostError as error:
        held.engine.forget(granted.run_id)
        return {"run": granted.run_id, "step": granted.step, "refused": f"not recorded: {error}"}
    except StepInterrupted as interruption:
        held.engine.forget(granted.run_id)
        return _interrupted(held, granted, interruption, began)
    finally:
        if not inside_session:
            held.engine.release()


def _interrupted(
    held: Runtime, claim: Claim, interruption: StepInterrupted, began: float
) -> dict[str, Any]:
    answer = {"run": claim.run_id, "step": claim.step, "interrupted": interruption.why}
    if interruption.why == LOST:
        return answer
    try:
        if claim.step in (STEP_PLAN, STEP_COMMAND):
            request = held.run(claim.run_id)
            if request is not None:
                _end_cancelled(held, request, claim, began)
        else:
            held.publish(claim.run_id, held.ledger.give_back(claim, "release"))
    except FenceLostError:
        answer["interrupted"] = LOST
    return answer


def _execute(held: Runtime, work: Callable[[], Answer]) -> Answer:
    """Run the engine where it may be interrupted; its lines are on Redis before its result is."""
    try:
        with held.heart.interruptible():
            return work()
    finally:
        held.progress.flush()


def _attempt(held: Runtime, claim: Claim, began: float, status: str, error: ErrorInfo | None) -> Attempt:
    return Attempt(
        step=claim.step, number=claim.tries, worker=held.owner, started_at=began,
        finished_at=time.time(), status=status, error=error,
    )  # fmt: skip


def _try_again(
    held: Runtime, run: Run, claim: Claim, began: float, error: ErrorInfo | None
) -> PassingError | None:
    """Give a step back for another attempt when its failure may pass; the exception to raise then."""
    policy = run.request.retry
    if error is None or not may_retry(claim.step, error, claim.tries, policy):
        return None
    delay = delay_before(claim.tries, policy)
    attempt = _attempt(held, claim, began, "error", error)
    held.publish(claim.run_id, held.ledger.give_back(claim, "retry", wait=delay, attempt=attempt))
    log("will be tried again", run=claim.run_id, node=claim.step, attempt=claim.tries,
        reason=error.code, wait=round(delay, 2))  # fmt: skip
    return PassingError(f"{error.code}: {error.message}", delay)


# -- the steps -------------------------------------------------------------------------------------


def _plan(held: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.stopping:
        return _end_cancelled(held, run, claim, began)
    if run.whole:
        return _command(held, run, claim)
    run.spec = msgspec.structs.replace(run.spec, invocation_id=str(uuid.uuid4()), started_at=began)
    try:
        planned = _execute(
            held, lambda: held.engine.plan(run.spec, held.progress.emit, attempt=claim.tries)
        )
    except CommandFailedError as failed:
        return _end(held, run, claim, began, failed.finished, [])
    facts: dict[str, str | int | float] = {
        "invocation_id": run.spec.invocation_id, "started_at": began,
        "mode": "session" if planned.warehouse else "message", "lock": planned.warehouse or "",
    }  # fmt: skip
    if planned.whole is not None:
        held.forget(claim.run_id)
        held.publish(
            claim.run_id, held.ledger.give_back(claim, "release", facts={**facts, "whole": "1"})
        )
        return {"run": claim.run_id, "whole": planned.whole}
    if not planned.nodes:
        finished = _execute(
            held,
            lambda: held.engine.close(
                run.spec, planned.facts, None, [], held.progress.emit, changes=lambda _: []
            ),
        )
        return _end(held, run, claim, began, finished, [])
    facts["facts"] = msgspec.json.encode(planned.facts).decode()
    facts["parallel"] = planned.threads
    roots = tuple(each.unique_id for each in planned.nodes if not each.parents)
    nodes = [
        StagedNode(each.unique_id, each.priority, max(1, len(each.parents)), each.children, each.ephemeral)
        for each in planned.nodes
    ]
    held.ledger.stage(claim, nodes, roots=roots)
    held.publish(
        claim.run_id,
        held.ledger.finish(
            claim, Move(word="planned", facts=facts, nodes=len(nodes)),
            attempt=_attempt(held, claim, began, "success", None),
        ),
    )  # fmt: skip
    held.forget(claim.run_id)
    return {"run": claim.run_id, "nodes": len(nodes)}


def _facts(run: Run) -> RunFacts:
    if run.facts is None:
        raise DbtError(f"run {run.request.run_id} was not planned")
    return run.facts


def _start(held: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    try:
        outcome = _execute(
            held,
            lambda: held.engine.start(run.spec, _facts(run), held.progress.emit, attempt=claim.tries),
        )
    except CommandFailedError as failed:
        again = _try_again(held, run, claim, began, failed.finished.error)
        if again is not None:
            raise again from failed
        return _end(held, run, claim, began, failed.finished, [])
    answer = _store(held, run, claim, began, outcome, facts={"began": began})
    held.forget(claim.run_id)
    return answer


def _node(held: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.losses >= settings.max_losses:
        return _store(held, run, claim, began, reports.worker_lost(claim, began))
    cause = held.ledger.result(claim.run_id, claim.cause) if claim.skip else None
    try:
        outcome = _execute(
            held,
            lambda: held.engine.node(
                run.spec, _facts(run), claim.step, claim.index, held.progress.emit,
                changes=lambda position: held.ledger.cache_changes(claim.run_id, position),
                attempt=claim.tries, skip=claim.skip,
                cause=None if cause is None else msgspec.json.decode(cause, type=StepResult),
            ),
        )  # fmt: skip
    except CommandFailedError as failed:
        outcome = reports.failed_node(claim, failed.finished, held.owner, began)
    again = _try_again(held, run, claim, began, outcome.result.error)
    if again is not None:
        raise again
    answer = _store(held, run, claim, began, outcome)
    if outcome.result.status in {"error", "fail", "partial success"}:
        info = outcome.result.error
        raise StepFailedError(f"{claim.step}: {info.message if info else outcome.result.message}")
    return answer


def _store(
    held: Runtime,
    run: Run,
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
    publish = held.ledger.finish(
        claim, move, result=held.engine.mask(run.spec, encode(result)),
        attempt=_attempt(held, claim, began, result.status, result.error),
    )  # fmt: skip
    held.publish(claim.run_id, publish)
    return {"run": claim.run_id, "node": claim.step, "status": result.status}


def _close(held: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    raw = held.ledger.results(claim.run_id)
    started = msgspec.json.decode(raw.pop(STEP_START), type=StepResult) if STEP_START in raw else None
    attempts = held.ledger.attempts(claim.run_id)
    order = {attempt.step: place for place, attempt in enumerate(attempts)}
    steps = sorted(
        (msgspec.json.decode(body, type=StepResult) for body in raw.values()),
        key=lambda step: order.get(step.unique_id, 0),
    )
    stop = held.ledger.fact(claim.run_id, "stop")
    try:
        finished = _execute(
            held,
            lambda: held.engine.close(
                run.spec, _facts(run), started, steps, held.progress.emit,
                changes=lambda position: held.ledger.cache_changes(claim.run_id, position),
                stop=stop, attempt=claim.tries,
            ),
        )  # fmt: skip
    except CommandFailedError as failed:
        again = _try_again(held, run, claim, began, failed.finished.error)
        if again is not None:
            raise again from failed
        finished = failed.finished
    return _end(held, run, claim, began, finished, steps, stop=stop)


def _command(held: Runtime, run: Run, claim: Claim) -> dict[str, Any]:
    began = time.time()
    if claim.stopping:
        return _end_cancelled(held, run, claim, began)
    name = run.request.word
    if not run.spec.invocation_id:
        warehouse = _execute(held, lambda: held.engine.warehouse(run.spec, name))
        run.spec = msgspec.structs.replace(
            run.spec, invocation_id=str(uuid.uuid4()), started_at=began
        )
        if warehouse is not None and run.lock is None:
            facts: dict[str, str | int | float] = {
                "mode": "session", "lock": warehouse, "invocation_id": run.spec.invocation_id,
                "started_at": began,
            }  # fmt: skip
            held.forget(claim.run_id)
            held.publish(claim.run_id, held.ledger.give_back(claim, "release", facts=facts))
            return {"run": claim.run_id, "warehouse": warehouse}
    try:
        finished = _execute(
            held,
            lambda: held.engine.command(run.spec, name, held.progress.emit, attempt=claim.tries),
        )
    except CommandFailedError as failed:
        finished = failed.finished
    again = _try_again(held, run, claim, began, finished.error)
    if again is not None:
        raise again
    return _end(held, run, claim, began, finished, finished.results)


def _end_cancelled(held: Runtime, run: Run, claim: Claim, began: float) -> dict[str, Any]:
    reason = held.ledger.fact(claim.run_id, "stop") or "cancelled"
    finished = Finished(return_code=1, error=reports.cancelled(reason))
    return _end(held, run, claim, began, finished, [], stop=reason)


def _end(
    held: Runtime,
    run: Run,
    claim: Claim,
    began: float,
    finished: Finished,
    steps: list[StepResult],
    *,
    stop: str | None = None,
) -> dict[str, Any]:
    """Store the run's result; nothing of it happens afterwards but reading."""
    held.engine.release()  # the caller may open the file the moment the result is there
    cancelled = stop is not None and stop != "fail_fast"
    if cancelled:
        finished.return_code = finished.return_code or 1
        finished.error = reports.cancelled(stop or "cancelled")
    state = RUN_CANCELLED if cancelled else RUN_SUCCEEDED if finished.return_code == 0 else RUN_FAILED
    if finished.error is not None and claim.tries > 1:
        finished.error = msgspec.structs.replace(finished.error, attempts=claim.tries)
    attempt = _attempt(held, claim, began, state, finished.error)
    final = reports.final_of(finished, steps, [*held.ledger.attempts(claim.run_id), attempt])
    if run.request.return_artifacts:
        reports.return_artifacts(held.ledger, run)
    move = Move(
        word="done" if finished.return_code == 0 else "error", final_state=state,
        final=held.engine.mask(run.spec, final).decode(),
    )  # fmt: skip
    held.ledger.finish(claim, move, attempt=attempt)
    held.forget(claim.run_id)
    held.engine.forget(claim.run_id)
    log("run ended", run=claim.run_id, state=state, return_code=finished.return_code, worker=held.owner)
    return {"run": claim.run_id, "state": state, "return_code": finished.return_code}


def _end_unread(held: Runtime, claim: Claim, error: DbtError) -> None:
    """End a run whose request this worker cannot use."""
    finished = Finished(
        return_code=2,
        error=reports.refused(str(error), Category.MESSAGE if isinstance(error, InvalidMessageError)
                              else Category.USAGE),
    )  # fmt: skip
    final = reports.bare_final(finished)
    held.ledger.finish(claim, Move(word="error", final_state=RUN_FAILED, final=final.decode()))
