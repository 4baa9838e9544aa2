"""A Celery task message as it lies in Redis, without Celery: importing kombu alone takes a tenth of a second.

The form is docs.celeryq.dev, "Message protocol", version 2, in kombu's envelope
(kombu.transport.virtual.base, ``prepare_message``).
"""

from __future__ import annotations

import base64
import bisect
import json
import os
import socket
import uuid

from workers.contract.names import QUEUE_LEVELS, task_name

_FIRST_OF_LEVEL = (0, 3, 6, 9)
"""The priorities that the lists of `QUEUE_LEVELS` begin with (kombu.transport.redis, ``PRIORITY_STEPS``)."""


def queue_key(queue: str, priority: int) -> str:
    """The Redis list of a queue that messages of a priority (0 to 9) are in."""
    return queue + QUEUE_LEVELS[bisect.bisect(_FIRST_OF_LEVEL, priority) - 1]


def task_message(
    run_id: str,
    step: str,
    queue: str,
    priority: int,
    *,
    root_id: str | None = None,
    parent_id: str | None = None,
) -> bytes:
    """The message that asks a worker for a step of a run.

    Args:
        root_id, parent_id: of the Celery task that sends it, where one does (Flower shows them).
    """
    identity, args = str(uuid.uuid4()), (run_id, step)
    body = [args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py", "task": task_name(step),
                "id": identity, "root_id": root_id or identity, "parent_id": parent_id, "group": None, "retries": 0,
                "eta": None, "expires": None, "timelimit": [None, None], "argsrepr": repr(args),
                "kwargsrepr": "{}", "origin": f"{os.getpid()}@{socket.gethostname()}", "ignore_result": True,
            },
            "properties": {
                "correlation_id": identity, "delivery_mode": 2, "priority": priority,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()  # fmt: skip
