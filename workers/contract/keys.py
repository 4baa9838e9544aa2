"""Task names, queue names and every Redis key that dbt-relay uses.

Nothing else in the product writes a key by hand, so this file is also the list of what dbt-relay
keeps in Redis. Every key of a run starts with ``relay:run:<run id>``; all of them expire together
(`ledger.py`).
"""

from __future__ import annotations

import calendar
import os
import re
import secrets
import time
from collections.abc import Mapping
from typing import Final

QUEUE: Final = "dbt-relay"
"""The queue that workers consume unless they are told otherwise."""

QUEUE_LEVELS: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What follows a queue's name in the keys of its lists, one for each step of priority
(kombu.transport.redis, ``priority_steps`` and ``sep``)."""

TASK_PLAN: Final = "relay.plan"
TASK_START: Final = "relay.start"
TASK_NODE: Final = "relay.node"
TASK_CLOSE: Final = "relay.close"
TASK_COMMAND: Final = "relay.command"
TASK_SESSION: Final = "relay.session"

CONTROL_DRAIN: Final = "relay_drain"
"""The command of Celery's remote control that stops a worker."""

STEP_PLAN: Final = "@plan"
STEP_START: Final = "@start"
STEP_CLOSE: Final = "@close"
STEP_COMMAND: Final = "@command"
"""Steps of a run that are not dbt nodes. dbt's unique ids never start with ``@``."""

RUN_RESULTS: Final = "run_results.json"
ARTIFACTS: Final = ("manifest.json", "semantic_manifest.json", "catalog.json", "sources.json", "index.html")
"""What dbt leaves in a target folder beside `RUN_RESULTS`, and a caller on another machine gets."""

SESSION: Final = "@session"
"""What a message names that asks for a session: it is no step, and holds the warehouse for a run's steps."""

TASK_OF_STEP: Final = {
    SESSION: TASK_SESSION,
    STEP_PLAN: TASK_PLAN,
    STEP_START: TASK_START,
    STEP_CLOSE: TASK_CLOSE,
    STEP_COMMAND: TASK_COMMAND,
}

READ: Final = "read "
"""What stands before the name of a file that a run opens to read it, and not to write."""

RUN_ID_PATTERN: Final = r"^[0-9]{8}T[0-9]{6}-[0-9a-f]{12}\Z"
STEP_ID_PATTERN: Final = r"^(@(plan|start|close|command)|[A-Za-z_]+\.[^\x00-\x1f/\\]{1,1000})\Z"

_RUN_ID = re.compile(RUN_ID_PATTERN)


def warehouse_of_files(files: Mapping[str, bool]) -> str:
    """The name of a single-process warehouse: the names of its files, one a line (`ledger/scripts/files.lua` reads it).

    Args:
        files: name -> whether it is opened for writing.
    """
    return "\n".join(name if writes else READ + name for name, writes in sorted(files.items()))


def files_of_warehouse(warehouse: str) -> tuple[str, ...]:
    """The names of the files of a warehouse, in the order of its name."""
    return tuple(line.removeprefix(READ) for line in warehouse.split("\n"))


def new_run_id(now: float | None = None) -> str:
    """A run id that sorts by time of submission (UTC) and cannot be guessed."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() if now is None else now))
    return f"{stamp}-{secrets.token_hex(6)}"


def release_queue(queue: str, release: str) -> str:
    """The queue beside `queue` that only its workers with that release of dbt consume.

    A run's messages go to `queue`. A worker that has another dbt than the one that planned the run passes them on.
    """
    return f"{queue}@{release}"


def submitted_at(run_id: str) -> float:
    """When the run was submitted, seconds since the epoch; 0.0 where the id does not say."""
    try:
        return float(calendar.timegm(time.strptime(run_id[:15], "%Y%m%dT%H%M%S")))
    except ValueError:
        return 0.0


def is_run_id(text: str) -> bool:
    """Whether `text` has the form of a run id (not whether such a run exists)."""
    return _RUN_ID.match(text) is not None


def task_name(step: str) -> str:
    """The Celery task that executes `step` (one of the ``@`` steps, or a dbt unique id)."""
    return TASK_OF_STEP.get(step, TASK_NODE)


def addressed(run_id: str, step: str) -> tuple[str, str]:
    """The run and step of an entry that a move of `run_id` gave to publish: its own steps, and those of other
    runs that it called, ``<run> <step>`` (`ledger/scripts/prelude.lua`)."""
    run, space, other = step.partition(" ")
    return (run, other) if space and is_run_id(run) else (run_id, step)


def namespace() -> str:
    """The first part of every key: ``relay``, or ``DBT_RELAY_NAMESPACE`` where several share a Redis."""
    return os.environ.get("DBT_RELAY_NAMESPACE", "relay")


class Keys:
    """Builders of Redis keys. Types in the comments are Redis types."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = namespace() if prefix is None else prefix

    # one run
    def run(self, run_id: str) -> str:  # hash: state, request, counters, what plan learned
        return f"{self.prefix}:run:{run_id}"

    def states(self, run_id: str) -> str:  # hash: step -> state
        return f"{self.run(run_id)}:states"

    def steps(self, run_id: str) -> str:  # hash: step -> JSON of attempts, fence, owner, index
        return f"{self.run(run_id)}:steps"

    def children(self, run_id: str) -> str:  # hash: step -> JSON list of steps
        return f"{self.run(run_id)}:children"

    def waiting(self, run_id: str) -> str:  # hash: step -> number of unfinished parents
        return f"{self.run(run_id)}:waiting"

    def ready(self, run_id: str) -> str:  # sorted set: step by priority
        return f"{self.run(run_id)}:ready"

    def results(self, run_id: str) -> str:  # hash: step -> JSON result
        return f"{self.run(run_id)}:results"

    def attempts(self, run_id: str) -> str:  # list: JSON of every finished attempt
        return f"{self.run(run_id)}:attempts"

    def cache(self, run_id: str) -> str:  # list: relation cache snapshot and changes, JSON
        return f"{self.run(run_id)}:cache"

    def artifact(self, run_id: str, name: str) -> str:  # string: zlib-compressed file
        return f"{self.run(run_id)}:artifact:{name}"

    def events(self, run_id: str) -> str:  # stream: lines and node events
        return f"{self.run(run_id)}:events"

    def log(self, run_id: str) -> str:  # stream: records of dbt's log file, which its reader removes
        return f"{self.run(run_id)}:log"

    def publishers(self, run_id: str) -> str:  # hash: publisher -> last sequence number it wrote
        return f"{self.run(run_id)}:publishers"

    def channel(self, run_id: str) -> str:  # pub/sub channel with the same entries, live
        return f"{self.run(run_id)}:live"

    def of_run(self, run_id: str) -> list[str]:
        """Every key of a run but its artifacts' (`artifact`) and its `log`, which expires by itself."""
        return [
            self.run(run_id), self.states(run_id), self.steps(run_id), self.children(run_id),
            self.waiting(run_id), self.ready(run_id), self.results(run_id), self.attempts(run_id),
            self.cache(run_id), self.events(run_id), self.publishers(run_id),
        ]  # fmt: skip

    def wait_reported(self, run_id: str) -> str:  # string, for a minute: why the run waits was said
        return f"{self.run(run_id)}:told"

    # all runs
    def active(self) -> str:  # sorted set: unfinished runs by time of submission
        return f"{self.prefix}:active"

    def finished(self) -> str:  # sorted set: finished runs by time of expiry
        return f"{self.prefix}:finished"

    def leases(self) -> str:  # sorted set: "<run> <step>" that is claimed, by expiry of its lease, ms
        return f"{self.prefix}:leases"

    def watches(self) -> str:  # sorted set: "<run> <step>" whose message should have been claimed by then, ms
        return f"{self.prefix}:watches"

    def locks(self) -> str:  # what every lock's key begins with
        return f"{self.prefix}:lock:"

    def lock(self, warehouse: str) -> str:  # hash: run, session and lease of who may write a file
        return f"{self.locks()}{warehouse}"

    def lock_readers(
        self, warehouse: str
    ) -> str:  # hash: run that only reads it -> JSON of session and lease
        return f"{self.lock(warehouse)}:readers"

    def lock_waiters(self, warehouse: str) -> str:  # list: runs in order of arrival
        return f"{self.lock(warehouse)}:waiters"

    def strays(self) -> str:  # hash: JSON of a process that lost a session -> when, ms
        return f"{self.prefix}:strays"

    def relation(self, name: str) -> str:  # hash: run and step that write it
        return self.lock(f"relation:{name}")

    def relation_waiters(self, name: str) -> str:  # list: "<run> <step>" in order of arrival
        return self.lock_waiters(f"relation:{name}")

    def relation_writer(self, name: str) -> str:  # string: the run that wrote it last, while others went on
        return f"{self.relation(name)}:writer"

    def turns(self) -> str:  # sorted set: runs whose steps are handed out, by when that began, ms
        return f"{self.prefix}:turns"

    def turns_line(self) -> str:  # sorted set: runs that wait for a turn, by priority and time
        return f"{self.turns()}:line"

    def turns_rules(self) -> str:  # hash: how many turns there are, and how long one lasts while others wait
        return f"{self.turns()}:rules"

    def context(self, key: str) -> str:  # string: packed manifest of a parsed project
        return f"{self.prefix}:context:{key}"

    def rejected(self) -> str:  # hash: reason -> number of messages refused
        return f"{self.prefix}:rejected"

    def probe(self) -> str:  # is never there: deleting it shows whether the server takes writes
        return f"{self.prefix}:probe"

    def command_line(self, release: str) -> str:  # string: packed description of a dbt release's command line
        return f"{self.prefix}:command-line:{release}"

    def shared(self) -> dict[str, str]:
        """Keys that all runs share, and their Redis types."""
        return {
            self.active(): "zset", self.finished(): "zset", self.leases(): "zset", self.watches(): "zset",
            self.strays(): "hash", self.workers(): "hash", self.rejected(): "hash",
        }  # fmt: skip

    def workers(self) -> str:  # hash: worker process -> JSON of what it says about itself
        return f"{self.prefix}:workers"
