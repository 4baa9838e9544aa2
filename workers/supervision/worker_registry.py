"""A worker says that it is there, and takes that back."""

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
"""How long a run keeps its turn while other runs wait for one. A new turn costs each process at most one load of the
project (0.7 s of CPU where it has 120 models and 870 tests), so a shorter one would be spent on loads."""

MISSING_SECONDS = 60.0
"""A worker that said nothing for so long does not count."""

_SAY = "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""A full server lets a script go on that began with making room (`ledger/scripts/prelude.lua`)."""


class WorkerEntry(msgspec.Struct, frozen=True):
    """The part of a worker's entry that the number of turns depends on."""

    seen: float = 0.0
    processes: int = 0


def turns_of(workers: Iterable[WorkerEntry], now: float) -> int:
    """How many runs may have steps under way at once: as many as there are worker processes.

    Each then executes steps of one run, whose project it has loaded (`ledger/scripts/turns.lua`).

    Args:
        workers: what the workers say.
        now: seconds since the epoch.
    """
    return max(1, sum(each.processes for each in workers if each.seen > now - MISSING_SECONDS))


class WorkerRegistration:
    """What `dbt-relay workers` and the producers know of this worker."""

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
            name: Celery's name of the worker.
            processes: how many its pool has.
            dbt: its release of dbt-core.
            adapters: its adapters by name, each with its release.
            command_line: the packed description of its dbt's command line.
        """
        self._client, self._key, self._rules = client, keys.workers(), keys.turns_rules()
        self._described, self._command_line = keys.command_line(dbt), command_line
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._plain: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "processes": processes,
            "version": importlib.metadata.version("dbt-relay"), "queue": settings.queue,
            "since": time.time(), "name": name, "draining": False, "dbt": dbt, "adapters": dict(adapters or {}),
            "contexts": settings.contexts,  # earlier releases compute the number of turns from it
        }  # fmt: skip
        self._gone, self._lock = False, threading.Lock()

    def publish(self) -> None:
        """Say hello. Raises redis.RedisError."""
        with self._lock:
            if self._gone:
                return
            self._plain |= {
                "seen": time.time(), "draining": draining(),
                "children": [child.pid for child in active_children()],
            }  # fmt: skip
            self._describe()
            self._client.eval(_SAY, 1, self._key, self._name, json.dumps(self._plain))
            self._set_turns()

    def _set_turns(self) -> None:
        """Write how many runs go on at once (`ledger/scripts/turns.lua`). Every worker writes the same."""
        said: Any = self._client.hvals(self._key)
        workers = []
        for raw in said:
            with contextlib.suppress(msgspec.MsgspecError):  # not written by a worker
                workers.append(msgspec.json.decode(raw, type=WorkerEntry))
        turns = turns_of(workers, time.time())
        with contextlib.suppress(redis.OutOfMemoryError):  # what is written stays true
            self._client.hset(self._rules, mapping={"runs": turns, "seconds": TURN_SECONDS})

    def _describe(self) -> None:
        """Publish the description of dbt's command line, or renew its expiry. A full server keeps none: clients
        then check against the description that they were installed with."""
        if self._command_line and not self._client.expire(self._described, EXPIRY_SECONDS):
            with contextlib.suppress(redis.OutOfMemoryError):
                self._client.set(self._described, self._command_line, ex=EXPIRY_SECONDS)

    def remove(self) -> None:
        """Say goodbye; no hello follows it."""
        with self._lock:
            self._gone = True
            try:
                self._client.hdel(self._key, self._name)
            except redis.RedisError as error:
                log("could not say goodbye", error=str(error))
