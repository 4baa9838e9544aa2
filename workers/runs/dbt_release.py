"""Runs stay with workers of the dbt release that planned them.

Another release may select, compile and name things otherwise, and need not be able to read the parsed project. The
plan notes its release in the run (field ``dbt``), and the ledger refuses claims of workers that have another. Such a
worker passes the message on to a queue that only workers with the right release consume (`names.release_queue`).
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
"""A worker says hello every five seconds; one that was silent for so long is taken for dead."""

TOLD_SECONDS = 60
MESSAGE_SECONDS = 3600
"""Messages that nobody takes go after so long; the ledger misses them long before."""


def pass_on(runtime: Runtime, run_id: str, step: str) -> None:
    """See to a message whose step this worker may not execute.

    Where no worker has the release that planned the run, nothing is sent: the ledger misses the message after some
    seconds, and the next worker looks again. Watchers are told what the run waits for. A run that is being stopped
    ends without dbt.
    """
    try:
        needed = runtime.ledger.fact(run_id, "dbt")
        if needed is None:
            runtime.publish(run_id, (step,))  # anybody may, since a moment ago
        elif needed in (releases := _releases(runtime)):
            queue = release_queue(settings.queue, needed)
            runtime.ledger.publish(run_id, (step,), queue)
            runtime.ledger.client.expire(queue_key(queue, runtime.ledger.priority(run_id)), MESSAGE_SECONDS)
        elif runtime.ledger.call("disown", run_id):
            runtime.publish(run_id, (step,))
        else:
            _tell(runtime, run_id, step, needed, releases)
    except redis.RedisError as error:
        log("message not passed on, the reaper will send it", run=run_id, node=step, error=str(error))


def _releases(runtime: Runtime) -> set[str]:
    """Releases of dbt that workers of this queue have who take messages."""
    raw: Any = runtime.ledger.client.hgetall(runtime.ledger.keys.workers())
    now, found = runtime.ledger.server_time(), set()
    for value in raw.values():
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            hello = json.loads(value)
            if hello.get("queue") != settings.queue or hello.get("draining"):
                continue
            if now - float(hello.get("seen", 0)) < SILENT_SECONDS:
                found.add(str(hello.get("dbt", "")))
    return found


def _tell(runtime: Runtime, run_id: str, step: str, needed: str, releases: set[str]) -> None:
    """Say once a minute that the run waits for a worker."""
    with contextlib.suppress(redis.OutOfMemoryError):
        if not runtime.ledger.client.set(
            runtime.ledger.keys.wait_reported(run_id), b"1", nx=True, ex=TOLD_SECONDS
        ):
            return
    there = ", ".join(sorted(releases - {""})) or "none"
    text = (
        f"it was planned with dbt-core {needed}, and no worker has that release (workers have: {there}); "
        "start one, or cancel the run"
    )
    log("no worker has the dbt that planned the run", run=run_id, node=step, needs=needed)
    runtime.progress.emit(
        Event(kind=STATE, run_id=run_id, node=step, state=WAITING, text=text, level="warn", at=time.time(),
              worker=runtime.owner)
    )  # fmt: skip
