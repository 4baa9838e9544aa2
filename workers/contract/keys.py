"""Names of tasks, queues and Redis keys.

All keys are built here, so this file lists what dbt-relay stores in Redis. The keys of a run start with
``relay:run:<run id>`` and expire together (`ledger.py`).
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
"""Default of ``DBT_RELAY_QUEUE``."""

QUEUE_LEVELS: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""Suffixes of a queue's lists in Redis, one for each priority step (kombu.transport.redis, ``priority_steps`` and
``sep``)."""

TASK_PLAN: Final = "relay.plan"
TASK_START: Final = "relay.start"
TASK_NODE: Final = "relay.node"
TASK_CLOSE: Final = "relay.close"
TASK_COMMAND: Final = "relay.command"
TASK_SESSION: Final = "relay.session"

CONTROL_DRAIN: Final = "relay_drain"
"""The remote control command (Celery) that drains a worker."""

STEP_PLAN: Final = "@plan"
STEP_START: Final = "@start"
STEP_CLOSE: Final = "@close"
STEP_COMMAND: Final = "@command"
"""Steps of a run that are not dbt nodes. dbt's unique ids never start with ``@``."""

RUN_RESULTS: Final = "run_results.json"
ARTIFACTS: Final = ("manifest.json", "semantic_manifest.json", "catalog.json", "sources.json", "index.html")
"""Files of the target folder, beside `RUN_RESULTS`, that are returned to a caller on another machine."""

SESSION: Final = "@session"
"""Takes the place of a step in a message that starts a session. A session holds the warehouse's lock for a run's
steps."""

TASK_OF_STEP: Final = {
    SESSION: TASK_SESSION,
    STEP_PLAN: TASK_PLAN,
    STEP_START: TASK_START,
    STEP_CLOSE: TASK_CLOSE,
    STEP_COMMAND: TASK_COMMAND,
}

READ: Final = "read "
"""Prefix of the name of a file that a run only reads."""

RUN_ID_PATTERN: Final = r"^[0-9]{8}T[0-9]{6}-[0-9a-f]{12}\Z"
STEP_ID_PATTERN: Final = r"^(@(plan|start|close|command)|[A-Za-z_]+\.[^\x00-\x1f/\\]{1,1000})\Z"

_RUN_ID = re.compile(RUN_ID_PATTERN)


def warehouse_of_files(files: Mapping[str, bool]) -> str:
    """Return the name of a single-process warehouse: the names of its files, one per line.

    `ledger/scripts/files.lua` parses it.

    Args:
        files: name -> whether the run writes the file.
    """
    return "\n".join(name if writes else READ + name for name, writes in sorted(files.items()))


def files_of_warehouse(warehouse: str) -> tuple[str, ...]:
    """Return the names of the files of a warehouse, in the order of its name."""
    return tuple(line.removeprefix(READ) for line in warehouse.split("\n"))


def new_run_id(now: float | None = None) -> str:
    """Create a run id that sorts by time of submission (UTC) and cannot be guessed."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() if now is None else now))
    return f"{stamp}-{secrets.token_hex(6)}"


def release_queue(queue: str, release: str) -> str:
    """Return the queue that only the workers of `queue` with this dbt release consume.

    Messages of a run are sent to `queue`. A worker whose dbt release differs from that of the worker that planned the
    run forwards them to this queue.
    """
    return f"{queue}@{release}"


def submitted_at(run_id: str) -> float:
    """Return the time of submission, seconds since the epoch; 0.0 if the id does not contain it."""
    try:
        return float(calendar.timegm(time.strptime(run_id[:15], "%Y%m%dT%H%M%S")))
    except ValueError:
        return 0.0


def is_run_id(text: str) -> bool:
    """Whether `text` has the format of a run id. The run need not exist."""
    return _RUN_ID.match(text) is not None


def task_name(step: str) -> str:
    """Return the Celery task that executes `step` (an ``@`` step, or dbt's unique id of a node)."""
    return TASK_OF_STEP.get(step, TASK_NODE)


def addressed(run_id: str, step: str) -> tuple[str, str]:
    """Return run and step of an entry that a ledger script returned to publish (`ledger/scripts/prelude.lua`).

    Args:
        run_id: the run that the script was called for.
        step: a step of this run, or ``<run> <step>`` for a step of another run.
    """
    run, space, other = step.partition(" ")
    return (run, other) if space and is_run_id(run) else (run_id, step)


def namespace() -> str:
    """Return the prefix of every key: ``DBT_RELAY_NAMESPACE``, or ``relay``."""
    return os.environ.get("DBT_RELAY_NAMESPACE", "relay")


class Keys:
    """Builds Redis keys. A comment gives the key's Redis type and content."""

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

    def log(self, run_id: str) -> str:  # stream: records of dbt's log file; its reader deletes them
        return f"{self.run(run_id)}:log"

    def publishers(self, run_id: str) -> str:  # hash: publisher -> last sequence number it wrote
        return f"{self.run(run_id)}:publishers"

    def channel(self, run_id: str) -> str:  # pub/sub channel with the same entries, live
        return f"{self.run(run_id)}:live"

    def of_run(self, run_id: str) -> list[str]:
        """Return every key of a run except its artifacts (`artifact`) and its `log`, which expires by itself."""
        return [
            self.run(run_id), self.states(run_id), self.steps(run_id), self.children(run_id),
            self.waiting(run_id), self.ready(run_id), self.results(run_id), self.attempts(run_id),
            self.cache(run_id), self.events(run_id), self.publishers(run_id),
        ]  # fmt: skip

    def wait_reported(
        self, run_id: str
    ) -> str:  # string, expires after a minute: the run's reason to wait was published
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

    def locks(self) -> str:  # prefix of every lock's key
        return f"{self.prefix}:lock:"

    def lock(self, warehouse: str) -> str:  # hash: run, session and lease of the writer of a file
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

    def relation_writer(
        self, name: str
    ) -> str:  # string: the run that wrote it last while other runs were active
        return f"{self.relation(name)}:writer"

    def turns(self) -> str:  # sorted set: runs that have a turn, by its start, ms
        return f"{self.prefix}:turns"

    def turns_line(self) -> str:  # sorted set: runs that wait for a turn, by priority and time
        return f"{self.turns()}:line"

    def turns_rules(
        self,
    ) -> str:  # hash: number of runs with a turn at once, and seconds of a turn while other runs wait
        return f"{self.turns()}:rules"

    def context(self, key: str) -> str:  # string: packed manifest of a parsed project
        return f"{self.prefix}:context:{key}"

    def rejected(self) -> str:  # hash: reason -> number of messages refused
        return f"{self.prefix}:rejected"

    def probe(self) -> str:  # never exists: deleting it shows whether the server accepts writes
        return f"{self.prefix}:probe"

    def command_line(self, release: str) -> str:  # string: packed description of a dbt release's command line
        return f"{self.prefix}:command-line:{release}"

    def shared(self) -> dict[str, str]:
        """Return the keys that all runs share, and their Redis types."""
        return {
            self.active(): "zset", self.finished(): "zset", self.leases(): "zset", self.watches(): "zset",
            self.strays(): "hash", self.workers(): "hash", self.rejected(): "hash",
        }  # fmt: skip

    def workers(self) -> str:  # hash: worker -> JSON of its entry (`supervision.worker_registry`)
        return f"{self.prefix}:workers"
