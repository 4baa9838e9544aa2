"""Executes the next steps of a run in the process that planned it, which has the project loaded.

Two kinds of steps are executed there, inside of the plan's Celery task:

- the session of a run on a single-process warehouse;
- while other runs wait for their turn, one step of the run after the other. The ledger hands only one out at a time
  then (`ledger/scripts/turns.lua`). If its message were sent, any process might get it and would have to load the project.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from celery import Task

from workers.app import settings
from workers.contract.keys import SESSION
from workers.runs.claimed_step import Answer
from workers.runs.nested_task import execute_as_own_task, task_events
from workers.runs.runtime import Runtime
from workers.runs.session import is_needed_elsewhere
from workers.supervision.drain import draining


def perform_and_continue(
    task: Task, runtime: Runtime, run_id: str, perform_plan: Callable[[], Answer]
) -> Answer:
    """Perform a plan step, then what follows in this process.

    The message of a step that does not follow here is sent, whatever happens.

    Args:
        task: the Celery task that the steps are executed inside of.

    Returns:
        the answer of the plan step.
    """
    next_step = runtime.next_step
    try:
        with next_step.kept_of(run_id):
            answer = perform_plan()
            _execute_steps(task, runtime, run_id)
        if next_step.step == SESSION:  # outside of the block: what follows a session is sent
            with task_events(task) as events:
                execute_as_own_task(task, events, runtime, run_id, next_step.take())
        return answer
    finally:
        left = next_step.take()
        runtime.send(run_id, (left,) if left else ())


def _execute_steps(task: Task, runtime: Runtime, run_id: str) -> None:
    """Execute one step after the other, for as long as other runs wait for their turn."""
    began = time.monotonic()
    if not _goes_on(runtime, run_id, began):
        return
    with task_events(task) as events:
        while True:
            execute_as_own_task(task, events, runtime, run_id, runtime.next_step.take())
            if not _goes_on(runtime, run_id, began):
                return


def _goes_on(runtime: Runtime, run_id: str, began: float) -> bool:
    return (
        runtime.next_step.step not in {"", SESSION}
        and not draining()
        and not is_needed_elsewhere(runtime, began)
        and runtime.ledger.others_wait_in_line(run_id, settings.queue)
    )
