"""The Celery tasks: plan, start, node and close of a run; a whole command; a session.

A message names a run and a step. What a worker does with it is in `workers.runs.step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Task

from workers.app import app
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
)
from workers.contract.task_message import shown_args, shown_name
from workers.runs import close as close_step
from workers.runs import command as command_step
from workers.runs import node as node_step
from workers.runs import plan as plan_step
from workers.runs import start as start_step
from workers.runs.claiming import accept
from workers.runs.continuation import perform_and_continue
from workers.runs.runtime import process_runtime
from workers.runs.session import hold_session
from workers.runs.step import perform
from workers.runs.task_errors import StepFailedError, TransientStepError


class RelayTask(Task):  # type: ignore[misc]
    """Celery's autoretry with the delay that was decided for the step; the ledger counts the attempts."""

    autoretry_for = (TransientStepError,)
    max_retries = None
    throws = (StepFailedError,)
    ignore_result = True

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Celery's, with the countdown of the run's own retry policy, and the names that Flower shows."""
        if isinstance(exc, TransientStepError):
            options["countdown"] = exc.delay
            options["shadow"] = shown_name(exc.step)
            options["argsrepr"] = shown_args(exc.run_id, exc.step)
        return super().retry(*args, exc=exc, **options)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Replace the traceback by dbt's text for Flower. Celery sends the event of the failure afterwards."""
        if isinstance(exc, StepFailedError) and exc.detail:
            einfo.traceback = exc.detail


def _task(name: str) -> Callable[[Callable[..., Any]], Any]:
    return app.task(name=name, base=RelayTask, bind=True)  # type: ignore[no-any-return]


@_task(TASK_PLAN)
def plan(self: Task, run_id: Any, step: Any = STEP_PLAN, version: Any = 1) -> dict[str, Any]:
    """Let dbt select the nodes of a run, and stage them in the ledger. Steps that follow here prolong the task."""
    return perform_and_continue(
        self, process_runtime(), str(run_id),
        lambda: perform(plan_step.execute, self.request.id, run_id, step, version),
    )  # fmt: skip


@_task(TASK_START)
def start(self: Task, run_id: Any, step: Any = STEP_START, version: Any = 1) -> dict[str, Any]:
    """Create schemas, fill the relation cache, run on-run-start hooks."""
    return perform(start_step.execute, self.request.id, run_id, step, version)


@_task(TASK_NODE)
def node(self: Task, run_id: Any, step: Any, version: Any = 1) -> dict[str, Any]:
    """Execute one dbt node."""
    return perform(node_step.execute, self.request.id, run_id, step, version)


@_task(TASK_CLOSE)
def close(self: Task, run_id: Any, step: Any = STEP_CLOSE, version: Any = 1) -> dict[str, Any]:
    """Run on-run-end hooks, write the merged artifacts, store the run's result."""
    return perform(close_step.execute, self.request.id, run_id, step, version)


@_task(TASK_COMMAND)
def command(self: Task, run_id: Any, step: Any = STEP_COMMAND, version: Any = 1) -> dict[str, Any]:
    """Execute a command that is not split into nodes."""
    return perform(command_step.execute, self.request.id, run_id, step, version)


@_task(TASK_SESSION)
def session(self: Task, run_id: Any, _step: Any = SESSION, version: Any = 1) -> dict[str, Any]:
    """Hold a single-process warehouse and execute the ready steps of its run one after the other."""
    runtime = process_runtime()
    # a session is no step of its own in the ledger's messages
    return hold_session(self, runtime, accept(runtime, run_id, STEP_PLAN, version))
