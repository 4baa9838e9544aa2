"""The story of a run, top to bottom: plan, start, node, close; or one command; or a session.

A Celery message names a run and a step and is only a hint: each task first claims its step from the
ledger, and does nothing when that is refused. What a step gave is stored in one move that also
releases what waited for it, and the messages of those are sent afterwards; the reaper sends them
should this process die in between.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task
from celery.app.trace import trace_task
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import Ignore

from workers.app import app, settings
from workers.contract.errors import DbtUsageError, InvalidMessageError
from workers.contract.events import STATE, Event
from workers.contract.keys import (
    SESSION,
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
from workers.contract.log import log, phase
from workers.contract.messages import step_task
from workers.contract.task_message import shown_args, shown_name
from workers.engine.warehouse.fencing import StepExecution
from workers.ledger.ledger import OTHER_DBT
from workers.ledger.records import Claim, FenceLostError, Refusal
from workers.runs import dbt_release, finishing, steps
from workers.runs.runtime import Run, Runtime, process_runtime
from workers.sessions.warehouse_lock import Session
from workers.supervision.drain import draining
from workers.supervision.lease_renewal import StepInterrupted

_STOPPING = "this worker is stopping"


class RelayTask(Task):  # type: ignore[misc]
    """Celery's autoretry with the wait that the run asked for; the ledger counts the attempts."""

    autoretry_for = (steps.PassingError,)
    max_retries = None
    throws = (steps.StepFailedError,)
    ignore_result = True

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Celery's, with the countdown of the run's own retry policy, and the names that Flower shows."""
        if isinstance(exc, steps.PassingError):
            options["countdown"] = exc.delay
            options["shadow"] = shown_name(exc.step)
            options["argsrepr"] = shown_args(exc.run_id, exc.step)
        return super().retry(*args, exc=exc, **options)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Celery calls it before it sends the event of the failure: Flower shows dbt's text and not our frames."""
        if isinstance(exc, steps.StepFailedError) and exc.detail:
            einfo.traceback = exc.detail


def _task(name: str) -> Callable[[Callable[..., Any]], Any]:
    return app.task(name=name, base=RelayTask, bind=True)  # type: ignore[no-any-return]


@_task(TASK_PLAN)
def plan(self: Task, run_id: Any, step: Any = STEP_PLAN, version: Any = 1) -> dict[str, Any]:
    """Let dbt select; stage its nodes; hand out the first step.

    Two things go on in this process, which has the project loaded, and the plan task then lasts as long: the session of
    a run, and the steps of a run while other runs wait for their turn. If the process dies before it claims a step, the
    reaper sends the step's message.
    """
    runtime = process_runtime()
    try:
        with runtime.next_step.kept_of(str(run_id)):
            answer = _perform(self, run_id, step, version, steps.plan)
            _execute_next_steps(self, runtime, str(run_id))
    finally:
        left = runtime.next_step.take()
        runtime.publish(str(run_id), (left,) if left else ())
    if answer.pop(steps.GOES_ON, False):
        with _task_events(self) as events:
            _trace_as_own_task(self, events, task_name(SESSION), (run_id, SESSION))
    return answer


def _execute_next_steps(parent: Task, runtime: Runtime, run_id: str) -> None:
    """Execute one step of a planned run after the other, for as long as other runs wait for their turn."""
    began = time.monotonic()

    def goes_on() -> bool:
        return (
            bool(runtime.next_step.step) and not draining() and not _is_wanted(runtime, began)
            and runtime.ledger.others_wait_in_line(run_id, settings.queue)
        )  # fmt: skip

    if not goes_on():
        return
    with _task_events(parent) as events:
        while goes_on():
            step = runtime.next_step.take()
            _trace_as_own_task(parent, events, task_name(step), (run_id, step))


@_task(TASK_START)
def start(self: Task, run_id: Any, step: Any = STEP_START, version: Any = 1) -> dict[str, Any]:
    """Schemas, relation cache and on-run-start hooks."""
    return _perform(self, run_id, step, version, steps.start)


@_task(TASK_NODE)
def node(self: Task, run_id: Any, step: Any, version: Any = 1) -> dict[str, Any]:
    """One dbt node."""
    return _perform(self, run_id, step, version, steps.node)


@_task(TASK_CLOSE)
def close(self: Task, run_id: Any, step: Any = STEP_CLOSE, version: Any = 1) -> dict[str, Any]:
    """on-run-end hooks, the merged artifacts, and the run's result."""
    return _perform(self, run_id, step, version, steps.close)


@_task(TASK_COMMAND)
def command(self: Task, run_id: Any, step: Any = STEP_COMMAND, version: Any = 1) -> dict[str, Any]:
    """A command that is not split into nodes."""
    return _perform(self, run_id, step, version, steps.command)


@_task(TASK_SESSION)
def session(self: Task, run_id: Any, _step: Any = SESSION, version: Any = 1) -> dict[str, Any]:
    """Hold a single-process warehouse and execute whatever is ready of its run, step by step."""
    body = _accept(run_id, STEP_PLAN, version)
    runtime = process_runtime()
    run = runtime.run(body.run_id)
    if run is None or run.lock is None:
        return {"run": body.run_id, "refused": "no such run, or its warehouse takes many processes"}
    if draining():
        runtime.publish(body.run_id, (SESSION,))
        return {"run": body.run_id, "refused": _STOPPING}
    entered = runtime.locks.enter(body.run_id, run.lock, runtime.owner)
    if isinstance(entered, str):
        if entered == OTHER_DBT:
            dbt_release.pass_on(runtime, body.run_id, SESSION)
        return {"run": body.run_id, "refused": entered}
    runtime.publish(body.run_id, entered.publish)
    with runtime.leases.session(entered):
        try:
            done = _execute_what_is_ready(self, runtime, entered)
        finally:
            try:
                runtime.engine.release()
            finally:
                following = runtime.locks.leave(entered)
    runtime.publish(body.run_id, following)
    return {"run": body.run_id, "steps": done}


def _execute_what_is_ready(parent: Task, runtime: Runtime, session: Session) -> int:
    """One step after the other, until none is ready or others go on here; how many."""
    done, began = 0, time.monotonic()
    with _task_events(parent) as events:
        # another worker goes on where this one leaves
        while not draining() and not (done and _is_wanted(runtime, began)):
            if not done and not _may_open(runtime, session):
                break
            claim = runtime.ledger.claim(session.run_id, "", runtime.owner, session=session.fence)
            if isinstance(claim, Refusal):
                break
            _trace_as_own_task(parent, events, task_name(claim.step), (claim.run_id, claim.step), claim)
            done += 1
    return done


def _may_open(runtime: Runtime, session: Session) -> bool:
    """Whether nobody who lost an earlier session holds the file; waits a while for those who cannot be ended."""
    began = 0.0
    while strays := runtime.strays.end(session.files):
        stop = runtime.ledger.fact(session.run_id, "stop")
        if stop is not None and stop != "fail_fast":
            return True  # it is to be cancelled, which needs no file
        if not began:
            began = time.monotonic()
            text = (
                f"waiting for {strays[0].owner} to let go of {strays[0].path}: it did not answer for too long, "
                "and cannot be ended from here; end or continue it"
            )
            log("waiting", run=session.run_id, node=SESSION, reason=text)
            runtime.progress.emit(
                Event(kind=STATE, run_id=session.run_id, node=SESSION, state="waiting", text=text,
                      level="warn", at=time.time(), worker=runtime.owner)
            )  # fmt: skip
        if draining() or time.monotonic() - began > settings.session_seconds:
            return False  # others may have this process meanwhile
        time.sleep(0.2)
    return True


def _is_wanted(runtime: Runtime, began: float) -> bool:
    """Whether a session has had this process long enough and other messages wait."""
    return time.monotonic() - began > settings.session_seconds and bool(
        runtime.ledger.queue_length(settings.queue)
    )


_handed: dict[str, Claim] = {}
"""Claims that a session made for the task (by id) that it is about to trace in this process."""


@contextmanager
def _task_events(parent: Task) -> Iterator[EventDispatcher]:
    """Celery's dispatcher for tasks that are executed within `parent`; what it was given is sent with the next
    flush, the last of it at the end. While the broker is away, it keeps what there is to send."""
    hostname = parent.request.hostname
    with app.events.default_dispatcher(hostname=hostname, buffer_while_offline=True) as events:
        events.buffer_group = frozenset({"task"})
        try:
            yield events
        finally:
            events.flush()


def _trace_as_own_task(
    parent: Task, events: EventDispatcher, name: str, args: tuple[str, str], claim: Claim | None = None
) -> None:
    """Execute a claimed step, or a session, as a Celery task of its own, in this process.

    Celery's tracer runs it, so that retries, logs and failures are Celery's; the events that the
    pool's parent would send (docs.celeryq.dev, "Task events") are sent here, so that Flower shows it. Its end
    goes with the beginning of the next, which follows at once.
    """
    identity = str(uuid.uuid4())
    if claim is not None:
        _handed[identity] = claim
    request = {
        "id": identity, "task": name, "args": args, "kwargs": {}, "retries": 0, "is_eager": False,
        "hostname": parent.request.hostname, "delivery_info": {"routing_key": settings.queue},
        "root_id": parent.request.root_id, "parent_id": parent.request.id, "called_directly": False,
        "shadow": shown_name(args[1]), "argsrepr": shown_args(*args),
    }  # fmt: skip
    said = {"uuid": identity, "name": shown_name(args[1]) or name, "args": shown_args(*args), "kwargs": "{}"}
    events.send("task-received", retries=0, root_id=parent.request.root_id,
                parent_id=parent.request.id, eta=None, expires=None, **said)  # fmt: skip
    events.send("task-started", uuid=identity)
    events.flush()
    began = time.monotonic()
    traced = trace_task(app.tasks[name], identity, args, {}, request, app=app)
    runtime_s = time.monotonic() - began
    if traced.info is None:
        events.send("task-succeeded", uuid=identity, result=repr(traced.retval), runtime=runtime_s)
    else:
        kind = "task-retried" if traced.info.state == "RETRY" else "task-failed"
        events.send(
            kind,
            uuid=identity,
            exception=repr(traced.info.retval),
            traceback=getattr(traced.retval, "traceback", ""),
        )


def _execution(runtime: Runtime, claim: Claim) -> StepExecution:
    """What the warehouse is told of an execution."""
    return StepExecution(
        run_id=claim.run_id, step=claim.step, fence=claim.fence, has_predecessors=claim.tries > 1,
        supersedes_run=claim.strays, check_lease=runtime.leases.assure,
    )  # fmt: skip


# -- the common part -------------------------------------------------------------------------------


def _accept(run_id: Any, step: Any, version: Any) -> Any:
    try:
        return step_task(run_id, step, version)
    except InvalidMessageError as error:
        process_runtime().ledger.count_rejected(str(error))
        log("message refused", reason=str(error))
        raise Ignore(str(error)) from error


def _perform(
    task: Task, run_id: Any, step: Any, version: Any, body: Callable[[Runtime, Run, Claim], dict[str, Any]]
) -> dict[str, Any]:
    """Claim the step, execute it under its lease, and see to whatever goes wrong around it."""
    message = _accept(run_id, step, version)
    runtime = process_runtime()
    handed = _handed.pop(task.request.id, None)
    inside_session = handed is not None
    granted = handed or (
        Refusal(_STOPPING, (message.step,))  # the message came too late: back into the queue with it
        if draining()
        else runtime.ledger.claim(message.run_id, message.step, runtime.owner)
    )
    if isinstance(granted, Refusal):
        runtime.publish(message.run_id, granted.publish)
        if granted.reason == OTHER_DBT:
            dbt_release.pass_on(runtime, message.run_id, message.step)
        log("not begun", level=logging.DEBUG, run=message.run_id, node=message.step, reason=granted.reason)
        return {"run": message.run_id, "step": message.step, "refused": granted.reason}
    runtime.publish(message.run_id, granted.publish)
    began = time.time()
    try:
        with (
            runtime.leases.holding(granted),
            runtime.engine.fenced(_execution(runtime, granted)),
            phase("step", run=granted.run_id, node=granted.step, attempt=granted.tries, worker=runtime.owner),
        ):
            try:
                run = runtime.run(
                    granted.run_id, begun=granted.step not in {STEP_PLAN, STEP_START, STEP_COMMAND}
                )
                if run is None:
                    return {"run": granted.run_id, "refused": "unknown run"}
                if granted.step.startswith("@") and granted.losses >= settings.max_losses:
                    return finishing.give_up(runtime, run, granted)
                return (finishing.end_orphaned if granted.orphaned else body)(runtime, run, granted)
            except (DbtUsageError, InvalidMessageError) as error:
                finishing.end_unread(runtime, granted, error)
                raise steps.StepFailedError(str(error)) from error
    except FenceLostError as error:
        runtime.engine.forget(granted.run_id)
        return {"run": granted.run_id, "step": granted.step, "refused": f"not recorded: {error}"}
    except StepInterrupted as interruption:
        runtime.engine.forget(granted.run_id)
        return finishing.end_interrupted(runtime, granted, interruption, began)
    finally:
        if not inside_session:
            runtime.engine.release()
