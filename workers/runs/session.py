"""Holds a single-process warehouse for a run, and executes its ready steps one after the other."""

from __future__ import annotations

import time

from celery import Task

from workers.app import settings
from workers.contract.events import STATE, Event
from workers.contract.keys import SESSION
from workers.contract.log import log
from workers.contract.messages import StepTask
from workers.contract.results import WAITING
from workers.ledger.ledger import OTHER_DBT
from workers.ledger.records import Refusal
from workers.runs import release_routing
from workers.runs.claimed_step import Answer
from workers.runs.claiming import STOPPING
from workers.runs.nested_task import execute_as_own_task, task_events
from workers.runs.runtime import Runtime
from workers.sessions.warehouse_lock import Session
from workers.supervision.drain import draining


def hold_session(task: Task, runtime: Runtime, message: StepTask) -> Answer:
    """Take the warehouse's locks, execute the run's steps until none is ready, and release the locks.

    A session is a lease: where this process dies, it runs out, and the run goes on in another session.

    Args:
        task: the Celery task that the steps are executed inside of.
    """
    run = runtime.run(message.run_id)
    if run is None or run.lock is None:
        return {"run": message.run_id, "refused": "no such run, or its warehouse takes many processes"}
    if draining():
        runtime.send(message.run_id, (SESSION,))
        return {"run": message.run_id, "refused": STOPPING}
    entered = runtime.locks.enter(message.run_id, run.lock, runtime.owner)
    if isinstance(entered, str):
        if entered == OTHER_DBT:
            release_routing.route(runtime, message.run_id, SESSION)
        return {"run": message.run_id, "refused": entered}
    runtime.send(message.run_id, entered.publish)
    with runtime.leases.session(entered):
        try:
            done = _execute_what_is_ready(task, runtime, entered)
        finally:
            try:
                runtime.engine.release()
            finally:
                following = runtime.locks.leave(entered)
    runtime.send(message.run_id, following)
    return {"run": message.run_id, "steps": done}


def _execute_what_is_ready(task: Task, runtime: Runtime, session: Session) -> int:
    """Execute one step after the other until none is ready or this process is needed elsewhere; how many."""
    done, began = 0, time.monotonic()
    with task_events(task) as events:
        # another worker goes on where this one leaves
        while not draining() and not (done and is_needed_elsewhere(runtime, began)):
            if not done and not may_open(runtime, session):
                break
            claim = runtime.ledger.claim(session.run_id, "", runtime.owner, session=session.fence)
            if isinstance(claim, Refusal):
                break
            execute_as_own_task(task, events, runtime, claim.run_id, claim.step, claim)
            done += 1
    return done


def may_open(runtime: Runtime, session: Session) -> bool:
    """Whether no process that lost an earlier session has a file open; waits a while for one that cannot be ended."""
    began = 0.0
    while holders := runtime.stale_holders.end(session.files):
        stop = runtime.ledger.fact(session.run_id, "stop")
        if stop is not None and stop != "fail_fast":
            return True  # it is to be cancelled, which needs no file
        if not began:
            began = time.monotonic()
            text = (
                f"waiting for {holders[0].owner} to close {holders[0].path}: it did not answer for too long, "
                "and cannot be ended from here; end or continue it"
            )
            log("waiting", run=session.run_id, node=SESSION, reason=text)
            runtime.progress.emit(
                Event(kind=STATE, run_id=session.run_id, node=SESSION, state=WAITING, text=text,
                      level="warn", at=time.time(), worker=runtime.owner)
            )  # fmt: skip
        if draining() or time.monotonic() - began > settings.session_seconds:
            return False  # others may have this process meanwhile
        time.sleep(0.2)
    return True


def is_needed_elsewhere(runtime: Runtime, began: float) -> bool:
    """Whether a run has had this process for long enough since `began` (`time.monotonic`), and messages wait."""
    return time.monotonic() - began > settings.session_seconds and bool(
        runtime.ledger.queue_length(settings.queue)
    )
