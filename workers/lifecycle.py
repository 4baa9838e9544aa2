"""What a worker does when it starts, while it lives, and when it stops (Celery's signals)."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import json
import os
import signal
import socket
import threading
import time
from typing import Any

import redis
from billiard.process import active_children
from celery import signals

from workers.app import settings
from workers.contract.connection import connect
from workers.contract.log import configure, log
from workers.contract.names import Keys
from workers.draining import drain, draining, seconds_left
from workers.intake import count_with
from workers.ledger import Ledger
from workers.reaper import Reaper
from workers.runtime import publish
from workers.strays import Strays
from workers.warden import Warden

_HELLO_SECONDS = 5.0
_HAND_BACK_SECONDS = 15.0
"""What cancelling a query over the network and handing a step back may take."""
_SAY = "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""A full server lets a script go on that began with making room (`lua/prelude.lua`)."""


class _Presence:
    """Says that this worker is there, and takes that back."""

    def __init__(self, client: redis.Redis, keys: Keys, name: str, processes: int) -> None:
        self._client, self._key = client, keys.workers()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._plain: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "processes": processes,
            "version": importlib.metadata.version("dbt-relay"), "queue": settings.queue,
            "since": time.time(), "name": name, "draining": False,
        }  # fmt: skip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="presence", daemon=True)

    def start(self) -> None:
        self.say()
        self._thread.start()

    def say(self) -> None:
        self._plain |= {
            "seen": time.time(), "draining": draining(),
            "children": [child.pid for child in active_children()],
        }  # fmt: skip
        self._client.eval(_SAY, 1, self._key, self._name, json.dumps(self._plain))

    def say_safely(self) -> None:
        try:
            self.say()
        except redis.RedisError as error:
            log("could not say hello", error=str(error))

    def stop(self) -> None:
        self._stop.set()
        try:
            self._client.hdel(self._key, self._name)
        except redis.RedisError as error:
            log("could not say goodbye", error=str(error))

    def _work(self) -> None:
        while not self._stop.wait(_HELLO_SECONDS):
            self.say_safely()


_alive: dict[str, Any] = {}


@signals.setup_logging.connect
def _logging(loglevel: Any = None, **_: Any) -> None:
    """Our own logger beside a plain root logger: connecting this signal keeps Celery's hands off."""
    import logging

    logging.basicConfig(level=loglevel or "WARNING", format="%(levelname)s %(name)s: %(message)s")
    configure(settings.log_format, settings.log_level)


@signals.worker_init.connect
def _preload(**_: Any) -> None:
    """Load dbt before the pool forks: its children share the pages."""
    import workers.engine.engine
    import workers.tasks  # noqa: F401

    gc.collect()
    gc.freeze()


@signals.worker_ready.connect
def _ready(sender: Any = None, **_: Any) -> None:
    keys = Keys(settings.namespace)
    client = connect(settings.broker_url or "redis://127.0.0.1:6379/0")
    ledger = Ledger(
        client, keys=keys, lease_ms=int(settings.lease_seconds * 1000), result_ttl=settings.result_ttl
    )
    processes = int(getattr(getattr(sender, "controller", None), "concurrency", 0) or 0)
    presence = _Presence(client, keys, str(getattr(sender, "hostname", "")), processes)
    send = functools.partial(publish, ledger)
    reaper = Reaper(
        ledger, send, queue=settings.queue, interval=settings.reap_seconds, strays=Strays(client, keys)
    )
    pool = getattr(getattr(sender, "pool", None), "_pool", None)
    warden = Warden(ledger, send, lambda: list(getattr(pool, "_pool", ())))
    count_with(ledger.count_rejected)
    _alive.update(presence=presence, reaper=reaper, warden=warden)
    presence.start()
    reaper.start()
    warden.start()
    log("worker ready", processes=processes)


@signals.worker_shutting_down.connect
def _shutting_down(how: str = "Warm", **_: Any) -> None:
    drain(settings.drain_seconds if how == "Warm" else 0.0)
    threading.Thread(target=_insist, name="insist", daemon=True).start()


def _insist() -> None:
    """End what can be interrupted by nothing, such as a stopped process: its lease does the rest."""
    presence = _alive.get("presence")
    if presence is not None:
        presence.say_safely()
    while seconds_left() > 0:
        time.sleep(min(1.0, seconds_left()))
    time.sleep(_HAND_BACK_SECONDS)
    for child in active_children():
        log("killing a process that does not hand its step back", pid=child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


@signals.worker_shutdown.connect
def _shutdown(**_: Any) -> None:
    for name in ("presence", "reaper", "warden"):
        if name in _alive:
            _alive[name].stop()
    log("worker stopped")
