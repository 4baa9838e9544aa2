"""Claims the step that a Celery message names, and answers messages whose step this process may not execute."""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import Ignore

from workers.contract.errors import InvalidMessageError
from workers.contract.log import log
from workers.contract.messages import StepTask, step_task
from workers.ledger.ledger import OTHER_DBT
from workers.ledger.records import Claim, Refusal
from workers.runs import release_routing
from workers.runs.claimed_step import Answer
from workers.runs.runtime import Runtime
from workers.supervision.drain import draining

STOPPING = "this worker is stopping"

_claimed_by_session: dict[str, Claim] = {}
"""Claims of a session for the task, by its id, that it executes next in this process."""


def accept(runtime: Runtime, run_id: Any, step: Any, version: Any) -> StepTask:
    """The validated body of a message.

    Raises:
        Ignore: it is not one that a producer of this release sends. Celery drops it.
    """
    try:
        return step_task(run_id, step, version)
    except InvalidMessageError as error:
        runtime.ledger.count_rejected(str(error))
        log("message refused", reason=str(error))
        raise Ignore(str(error)) from error


def pass_claim(task_id: str, claim: Claim) -> None:
    """Pass a session's claim on to the task that is executed next in this process."""
    _claimed_by_session[task_id] = claim


def claim_step(runtime: Runtime, message: StepTask, task_id: str) -> tuple[Claim | Refusal, bool]:
    """Claim a step; whether a session of this process has done it already comes second."""
    claimed = _claimed_by_session.pop(task_id, None)
    if claimed is not None:
        return claimed, True
    if draining():  # the message came too late: it goes back into the queue
        return Refusal(STOPPING, (message.step,)), False
    return runtime.ledger.claim(message.run_id, message.step, runtime.owner), False


def answer_refusal(runtime: Runtime, message: StepTask, refusal: Refusal) -> Answer:
    """Send the messages that a refused claim calls for.

    A message that came late or twice is refused, too: the ledger knows that its step is done or executed.
    """
    runtime.send(message.run_id, refusal.publish)
    if refusal.reason == OTHER_DBT:
        release_routing.route(runtime, message.run_id, message.step)
    log("claim refused", level=logging.DEBUG, run=message.run_id, node=message.step, reason=refusal.reason)
    return {"run": message.run_id, "step": message.step, "refused": refusal.reason}
