"""Celery without dbt-relay: an empty task with a stored result. ``celery -A benchmarks.bare_celery worker``.

``BARE_CELERY=ours`` uses the settings of `workers.app` that affect speed; otherwise Celery's defaults apply. Both use
JSON and a Redis result backend.
"""

from __future__ import annotations

import os
import time

from celery import Celery, group
from celery.result import GroupResult

URL = os.environ.get("BARE_CELERY_URL", "redis://127.0.0.1:6379/0")

app = Celery("bare", broker=URL, backend=URL)
app.conf.update(task_default_queue="bare", worker_redirect_stdouts=False, result_expires=600)
if os.environ.get("BARE_CELERY") == "ours":
    app.conf.update(
        task_acks_late=False, worker_prefetch_multiplier=1, worker_disable_prefetch=True,
        worker_send_task_events=True, task_send_sent_event=True,
    )  # fmt: skip


@app.task(name="bare.nothing")
def nothing(number: int) -> int:
    """Return the argument."""
    return number


def carry(tasks: int) -> float:
    """Execute `tasks` tasks. Returns seconds from sending the first to receiving the last result."""
    began = time.perf_counter()
    sent: GroupResult = group(nothing.s(number) for number in range(tasks)).apply_async()
    answers = sent.join_native(timeout=600)
    took = time.perf_counter() - began
    assert answers == list(range(tasks)), "a result was lost"
    sent.forget()
    return took
