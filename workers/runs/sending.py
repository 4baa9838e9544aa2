"""Sends the Celery messages of steps that the ledger has handed out."""

from __future__ import annotations

from collections.abc import Sequence

import redis
from celery import current_task

from workers.app import settings
from workers.contract.log import log
from workers.ledger.ledger import Ledger


def send_messages(ledger: Ledger, run_id: str, steps: Sequence[str]) -> None:
    """Send a message for each step.

    A message that cannot be sent is not an error: the ledger has the step as due, and the reaper sends it again.
    """
    if not steps:
        return
    try:
        sender = current_task.request if current_task else None  # Flower shows which task sent it
        ledger.publish(
            run_id, steps, settings.queue,
            root_id=sender and sender.root_id, parent_id=sender and sender.id,
        )  # fmt: skip
    except redis.RedisError as error:
        log("messages not sent, the reaper will send them", run=run_id, nodes=list(steps), error=str(error))
