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

import redis
from billiard.process import active_children

from workers.app import settings
from workers.contract.log import log
from workers.contract.names import Keys
from workers.draining import draining

TURN_SECONDS = 30
"""How long a run keeps its turn while other runs wait for one. A new turn costs each process at most one load of the
project (0.7 s of CPU where it has 120 models and 870 tests), so a shorter one would be spent on loads."""

MISSING_SECONDS = 60.0
"""A worker that said nothing for so long does not count."""

_SAY = "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""A full server lets a script go on that began with making room (`lua/prelude.lua`)."""


def turns_of(workers: Iterable[Mapping[str, Any]], now: float) -> int:
    """How many runs may have steps under way at once.

    Each process may be given a step of any of these runs. So it must keep the projects of all of them, beside those
    of runs that end and begin meanwhile: half of what it keeps. But no process is to be idle while runs wait.

    Args:
        workers: what the workers say of themselves.
        now: seconds since the epoch.
    """
    alive = [each for each in workers if each.get("seen", 0) > now - MISSING_SECONDS]
    kept = min((int(each["contexts"]) for each in alive if "contexts" in each), default=settings.contexts)
    return max(1, kept // 2, sum(int(each.get("processes", 0)) for each in alive))


class Presence:
    """What `dbt-relay workers` and the producers know of this worker."""

    INTERVAL = 5.0

    def __init__(self, client: redis.Redis, keys: Keys, name: str, processes: int) -> None:
        """
        Args:
            name: Celery's name of the worker.
            processes: how many its pool has.
        """
        self._client, self._key, self._rules = client, keys.workers(), keys.turns_rules()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._plain: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "processes": processes,
            "version": importlib.metadata.version("dbt-relay"), "queue": settings.queue,
            "since": time.time(), "name": name, "draining": False, "contexts": settings.contexts,
        }  # fmt: skip
        self._gone, self._lock = False, threading.Lock()

    def say(self) -> None:
        """Say hello. Raises redis.RedisError."""
        with self._lock:
            if self._gone:
                return
            self._plain |= {
                "seen": time.time(), "draining": draining(),
                "children": [child.pid for child in active_children()],
            }  # fmt: skip
            self._client.eval(_SAY, 1, self._key, self._name, json.dumps(self._plain))
            self._set_turns()

    def _set_turns(self) -> None:
        """Write how many runs go on at once (`lua/turns.lua`). Every worker writes the same."""
        said: Any = self._client.hvals(self._key)
        with contextlib.suppress(redis.OutOfMemoryError):  # what is written stays true
            turns = turns_of([json.loads(raw) for raw in said], time.time())
            self._client.hset(self._rules, mapping={"runs": turns, "seconds": TURN_SECONDS})

    def take_back(self) -> None:
        """Say goodbye; no hello follows it."""
        with self._lock:
            self._gone = True
            try:
                self._client.hdel(self._key, self._name)
            except redis.RedisError as error:
                log("could not say goodbye", error=str(error))
