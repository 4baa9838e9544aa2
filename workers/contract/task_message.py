"""Creates Celery task messages without Celery, whose import is slow (kombu alone takes 0.1 s).

The format is version 2 of Celery's message protocol (docs.celeryq.dev, "Message protocol") in kombu's envelope
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
"""The lowest priority number of each list of `QUEUE_LEVELS` (kombu.transport.redis, ``PRIORITY_STEPS``)."""


_HASH_OF_TEST = re.compile(r"\.[0-9a-f]{10}\Z")
"""The hash at the end of the unique id of a generic test (dbt.parser.generic_test_builders)."""


def queue_key(queue: str, priority: int) -> str:
    """Return the Redis list of a queue for messages of a priority (0 to 9)."""
    return queue + QUEUE_LEVELS[bisect.bisect(_FIRST_OF_LEVEL, priority) - 1]


def shown_name(step: str) -> str | None:
    """Return the name of a node's task in Flower and Celery's log: ``model orders``, as dbt prints it.

    It is the header ``shadow`` of the message (docs.celeryq.dev, "Message protocol"). The task keeps its own name.

    Returns:
        None for a step that is not a node: its task's own name is shown.
    """
    if step.startswith("@") or step.count(".") < 2:
        return None
    kind, _, name = step.split(".", 2)
    if kind == "test":
        name = _HASH_OF_TEST.sub("", name)
    return f"{kind.replace('_', ' ')} {name}"


def shown_args(run_id: str, step: str) -> str:
    """Return the arguments of a task as Flower shows them: the node first, so that a narrow column shows its name."""
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
    """Create the message that makes a worker execute a step.

    Args:
        run_id: the run.
        step: the step.
        queue: the Celery queue.
        priority: of the run, 0 to 9.
        root_id, parent_id: ids of the Celery task that sends the message, if any. Flower shows them.
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
