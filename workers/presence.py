"""A worker says that it is there, and takes that back."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import threading
import time
from typing import Any

import redis
from billiard.process import active_children

from workers.app import settings
from workers.contract.log import log
from workers.contract.names import Keys
from workers.draining import draining

_SAY = "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""A full server lets a script go on that began with making room (`lua/prelude.lua`)."""


class Presence:
    """What `dbt-relay workers` and the producers know of this worker."""

    INTERVAL = 5.0

    def __init__(self, client: redis.Redis, keys: Keys, name: str, processes: int) -> None:
        """
        Args:
            name: Celery's name of the worker.
            processes: how many its pool has.
        """
        self._client, self._key = client, keys.workers()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._plain: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "processes": processes,
            "version": importlib.metadata.version("dbt-relay"), "queue": settings.queue,
            "since": time.time(), "name": name, "draining": False,
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

    def take_back(self) -> None:
        """Say goodbye; no hello follows it."""
        with self._lock:
            self._gone = True
            try:
                self._client.hdel(self._key, self._name)
            except redis.RedisError as error:
                log("could not say goodbye", error=str(error))
