"""A Celery task message as it lies in Redis, without Celery: importing kombu alone takes a tenth of a second.

The form is docs.celeryq.dev, "Message protocol", version 2, in kombu's envelope
(kombu.transport.virtual.base, ``prepare_message``).
"""

from __future__ import annotations

import base64
import bisect
import json
import os
import re
import socket
import uuid

from workers.contract.keys import QUEUE_LEVELS, task_name

_FIRST_OF_LEVEL = (0, 3, 6, 9)
"""The priorities that the lists of `QUEUE_LEVELS` begin with (kombu.transport.redis, ``PRIORITY_STEPS``)."""


_HASH_OF_TEST = re.compile(r"\.[0-9a-f]{10}\Z")
"""What dbt adds to the id of a generic test (dbt.parser.generic_test_builders)."""


def queue_key(queue: str, priority: int) -> str:
    """The Redis list of a queue that messages of a priority (0 to 9) are in."""
    return queue + QUEUE_LEVELS[bisect.bisect(_FIRST_OF_LEVEL, priority) - 1]


def shown_name(step: str) -> str | None:
    """What Flower and Celery's log call the task of a node: ``model orders``, as dbt names it on the console.

    It is the message's ``shadow`` (docs.celeryq.dev, "Message protocol"); the task itself keeps its name.

    Returns:
        None for a step that is no node: its task has a name of its own.
    """
    if step.startswith("@") or step.count(".") < 2:
        return None
    kind, _, name = step.split(".", 2)
    if kind == "test":
        name = _HASH_OF_TEST.sub("", name)
    return f"{kind.replace('_', ' ')} {name}"


def shown_args(run_id: str, step: str) -> str:
    """What Flower shows as the arguments of a task: the node first, whose name a narrow column leaves visible."""
    return repr((step, run_id))


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
                "lang": "py", "task": task_name(step), "shadow": shown_name(step),
                "id": identity, "root_id": root_id or identity, "parent_id": parent_id, "group": None, "retries": 0,
                "eta": None, "expires": None, "timelimit": [None, None], "argsrepr": shown_args(run_id, step),
                "kwargsrepr": "{}", "origin": f"{os.getpid()}@{socket.gethostname()}", "ignore_result": True,
            },
            "properties": {
                "correlation_id": identity, "delivery_mode": 2, "priority": priority,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()  # fmt: skip
