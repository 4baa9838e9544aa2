"""Routes messages of a run to workers that have the dbt release which planned it.

Another release may select, compile and name things otherwise, and may be unable to read the parsed project. The plan
writes its release into the run (field ``dbt``), and the ledger refuses claims of workers that have another one. Such a
worker sends the message to a queue that only workers with the right release consume (`keys.release_queue`).
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import redis

from workers.app import settings
from workers.contract.events import STATE, Event
from workers.contract.keys import release_queue
from workers.contract.log import log
from workers.contract.results import WAITING
from workers.contract.task_message import queue_key
from workers.runs.runtime import Runtime

SILENT_SECONDS = 30.0
"""A worker registers every five seconds. It counts as dead if it did not for this long."""

REPORT_SECONDS = 60
"""Seconds between two reports that a run waits for a worker."""

MESSAGE_SECONDS = 3600
"""Seconds until a message that no worker takes is dropped. The reaper finds the step long before, and sends another one."""


def route(runtime: Runtime, run_id: str, step: str) -> None:
    """Send the message of a step that this worker may not execute to those that may.

    If no worker has the release, nothing is sent. After some seconds the reaper sends the message again, and the worker
    that receives it checks again. An event says what the run waits for. A run that is being stopped ends without dbt.
    """
    try:
        needed = runtime.ledger.fact(run_id, "dbt")
        if needed is None:
            runtime.send(run_id, (step,))  # any worker may execute the run by now
        elif needed in (releases := _releases(runtime)):
            queue = release_queue(settings.queue, needed)
            runtime.ledger.publish(run_id, (step,), queue)
            runtime.ledger.client.expire(queue_key(queue, runtime.ledger.priority(run_id)), MESSAGE_SECONDS)
        elif runtime.ledger.call("disown", run_id):
            runtime.send(run_id, (step,))
        else:
            _report_wait(runtime, run_id, step, needed, releases)
    except redis.RedisError as error:
        log("message not passed on, the reaper will send it", run=run_id, node=step, error=str(error))


def _releases(runtime: Runtime) -> set[str]:
    """The releases of dbt that workers of this queue have, without those that are stopping."""
    raw: Any = runtime.ledger.client.hgetall(runtime.ledger.keys.workers())
    now, found = runtime.ledger.server_time(), set()
    for value in raw.values():
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            worker = json.loads(value)
            if worker.get("queue") != settings.queue or worker.get("draining"):
                continue
            if now - float(worker.get("seen", 0)) < SILENT_SECONDS:
                found.add(str(worker.get("dbt", "")))
    return found


def _report_wait(runtime: Runtime, run_id: str, step: str, needed: str, releases: set[str]) -> None:
    """Report, once in `REPORT_SECONDS`, that the run waits for a worker."""
    with contextlib.suppress(redis.OutOfMemoryError):
        if not runtime.ledger.client.set(
            runtime.ledger.keys.wait_reported(run_id), b"1", nx=True, ex=REPORT_SECONDS
        ):
            return
    present = ", ".join(sorted(releases - {""})) or "none"
    text = (
        f"it was planned with dbt-core {needed}, and no worker has that release (workers have: {present}); "
        "start one, or cancel the run"
    )
    log("no worker has the dbt that planned the run", run=run_id, node=step, needs=needed)
    runtime.progress.emit(
        Event(kind=STATE, run_id=run_id, node=step, state=WAITING, text=text, level="warn", at=time.time(),
              worker=runtime.owner)
    )  # fmt: skip
