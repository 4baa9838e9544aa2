"""The worker registry: each worker publishes an entry about itself in Redis, renews it, and removes it when it stops."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import redis
from billiard.process import active_children

from workers.app import settings
from workers.contract.command_line import EXPIRY_SECONDS
from workers.contract.keys import Keys
from workers.contract.log import log
from workers.supervision.drain import draining

TURN_SECONDS = 30
"""Seconds for which a run keeps its turn while other runs wait for one. A new turn costs each process up to one load of
the project (0.7 s of CPU for 120 models and 870 tests), so shorter turns would be spent on loads."""

MISSING_SECONDS = 60.0
"""Seconds after which a worker that did not renew its entry does not count."""

_PUBLISH = "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""A server that is out of memory lets a script write that deleted something first (`ledger/scripts/prelude.lua`)."""


class WorkerEntry(msgspec.Struct, frozen=True):
    """The fields of a worker's entry that the number of turns depends on."""

    seen: float = 0.0
    processes: int = 0


def turns_of(workers: Iterable[WorkerEntry], now: float) -> int:
    """Return how many runs may have a turn, that is, queued and running steps: as many as there are worker processes.

    While other runs wait, each process executes one run, whose project it has loaded (`ledger/scripts/turns.lua`).

    Args:
        workers: the entries of the workers.
        now: seconds since the epoch.
    """
    return max(1, sum(each.processes for each in workers if each.seen > now - MISSING_SECONDS))


class WorkerRegistration:
    """The entry of this worker in the registry, which `dbt-relay workers` and producers read."""

    INTERVAL = 5.0

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        name: str,
        processes: int,
        *,
        dbt: str = "",
        adapters: Mapping[str, str] | None = None,
        command_line: bytes = b"",
    ) -> None:
        """
        Args:
            client: the Redis client.
            keys: the Redis keys.
            name: Celery's name of the worker.
            processes: number of processes of its pool.
            dbt: release of its dbt-core.
            adapters: release of each of its adapters, by name.
            command_line: the packed description of its dbt's command line (`contract.command_line`).
        """
        self._client, self._key, self._rules = client, keys.workers(), keys.turns_rules()
        self._command_line_key, self._command_line = keys.command_line(dbt), command_line
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._plain: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "processes": processes,
            "version": importlib.metadata.version("dbt-relay"), "queue": settings.queue,
            "since": time.time(), "name": name, "draining": False, "dbt": dbt, "adapters": dict(adapters or {}),
            "contexts": settings.contexts,  # earlier releases compute the number of turns from it
        }  # fmt: skip
        self._removed, self._lock = False, threading.Lock()

    def publish(self) -> None:
        """Write or renew the entry, unless it was removed.

        Raises:
            redis.RedisError: the server cannot be reached.
        """
        with self._lock:
            if self._removed:
                return
            self._plain |= {
                "seen": time.time(), "draining": draining(),
                "children": [child.pid for child in active_children()],
            }  # fmt: skip
            self._publish_command_line()
            self._client.eval(_PUBLISH, 1, self._key, self._name, json.dumps(self._plain))
            self._set_turns()

    def _set_turns(self) -> None:
        """Write the number of turns (`ledger/scripts/turns.lua`). Every worker computes the same number."""
        entries: Any = self._client.hvals(self._key)
        workers = []
        for raw in entries:
            with contextlib.suppress(msgspec.MsgspecError):  # another program wrote it
                workers.append(msgspec.json.decode(raw, type=WorkerEntry))
        turns = turns_of(workers, time.time())
        with contextlib.suppress(redis.OutOfMemoryError):  # the previous number stays
            self._client.hset(self._rules, mapping={"runs": turns, "seconds": TURN_SECONDS})

    def _publish_command_line(self) -> None:
        """Publish the description of dbt's command line, or renew its time to live. If the server is out of memory,
        clients check against the description of their installation."""
        if self._command_line and not self._client.expire(self._command_line_key, EXPIRY_SECONDS):
            with contextlib.suppress(redis.OutOfMemoryError):
                self._client.set(self._command_line_key, self._command_line, ex=EXPIRY_SECONDS)

    def remove(self) -> None:
        """Remove the entry. `publish` does nothing afterwards."""
        with self._lock:
            self._removed = True
            try:
                self._client.hdel(self._key, self._name)
            except redis.RedisError as error:
                log("worker entry not removed", error=str(error))
