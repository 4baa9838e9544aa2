"""Executes a Celery task inside of another one, in the same process, as a task of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Task
from celery.app.trace import trace_task
from celery.events.dispatcher import EventDispatcher

from workers.app import app, settings
from workers.contract.keys import task_name
from workers.contract.task_message import shown_args, shown_name
from workers.ledger.records import Claim
from workers.runs.claiming import pass_claim
from workers.runs.runtime import Runtime


@contextmanager
def task_events(parent: Task) -> Iterator[EventDispatcher]:
    """Celery's event dispatcher for tasks that are executed inside of `parent`.

    It sends its events with the next flush, and the last ones at the end. While the broker is away, it keeps them.
    """
    hostname = parent.request.hostname
    with parent.app.events.default_dispatcher(hostname=hostname, buffer_while_offline=True) as events:
        events.buffer_group = frozenset({"task"})
        try:
            yield events
        finally:
            events.flush()


def execute_as_own_task(
    parent: Task,
    events: EventDispatcher,
    runtime: Runtime,
    run_id: str,
    step: str,
    claim: Claim | None = None,
) -> None:
    """Execute a claimed step, or a session, as a Celery task of its own, in this process.

    Celery's tracer runs it, so that retries, logs and failures are Celery's. The events that the parent process of
    the pool would send (docs.celeryq.dev, "Task events") are sent here, so that Flower shows it. The event of its end
    is sent with the next flush, which follows at once. A retry of the task has the run's priority.
    """
    name, args, identity = task_name(step), (run_id, step), str(uuid.uuid4())
    if claim is not None:
        pass_claim(identity, claim)
    request = {
        "id": identity, "task": name, "args": args, "kwargs": {}, "retries": 0, "is_eager": False,
        "hostname": parent.request.hostname,
        "delivery_info": {"routing_key": settings.queue, "priority": runtime.ledger.priority(run_id)},
        "root_id": parent.request.root_id, "parent_id": parent.request.id, "called_directly": False,
        "shadow": shown_name(step), "argsrepr": shown_args(*args),
    }  # fmt: skip
    events.send("task-received", uuid=identity, name=shown_name(step) or name, args=shown_args(*args), kwargs="{}",
                retries=0, root_id=parent.request.root_id, parent_id=parent.request.id, eta=None,
                expires=None)  # fmt: skip
    events.send("task-started", uuid=identity)
    events.flush()
    began = time.monotonic()
    traced = trace_task(app.tasks[name], identity, args, {}, request, app=app)
    took = time.monotonic() - began
    if traced.info is None:
        events.send("task-succeeded", uuid=identity, result=repr(traced.retval), runtime=took)
    else:
        kind = "task-retried" if traced.info.state == "RETRY" else "task-failed"
        events.send(
            kind,
            uuid=identity,
            exception=repr(traced.info.retval),
            traceback=getattr(traced.retval, "traceback", ""),
        )
