"""What a worker does when it starts, while it lives, and when it stops (Celery's signals)."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
import time
from typing import Any

import redis
from billiard.process import active_children
from celery import signals

from workers import memory
from workers.app import settings
from workers.board import board
from workers.contract.connection import connect
from workers.contract.errors import DbtUsageError
from workers.contract.log import configure, log
from workers.contract.names import Keys
from workers.draining import drain, seconds_left
from workers.engine.patches import registry
from workers.intake import count_with
from workers.ledger import Ledger
from workers.presence import Presence
from workers.reaper import Reaper
from workers.rounds import Rounds
from workers.runtime import publish
from workers.strays import Strays
from workers.timekeeper import Timekeeper
from workers.warden import Warden

_HAND_BACK_SECONDS = 15.0
"""What cancelling a query over the network and handing a step back may take."""

_presence: list[Presence] = []
_rounds: list[Rounds] = []


@signals.setup_logging.connect
def _logging(loglevel: Any = None, **_: Any) -> None:
    """Our own logger beside a plain root logger: connecting this signal keeps Celery's hands off."""
    import logging

    logging.basicConfig(level=loglevel or "WARNING", format="%(levelname)s %(name)s: %(message)s")
    configure(settings.log_format, settings.log_level)


@signals.worker_init.connect
def _before_the_pool(sender: Any = None, **_: Any) -> None:
    """Load dbt before the pool forks: its children share the pages, and so does whoever takes the place of one
    that has grown. Celery looks at that after each task (``worker_max_memory_per_child``, which goes first)."""
    if sender is not None and not sender.max_memory_per_child:
        most = int(settings.process_memory * 2**20) or memory.share(sender.concurrency)
        sender.max_memory_per_child = most // 1024
    import workers.engine.engine
    import workers.tasks  # noqa: F401

    try:
        registry.apply(settings.patches)
    except DbtUsageError as error:
        raise SystemExit(f"dbt-relay: {error}") from None
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
    presence = Presence(client, keys, str(getattr(sender, "hostname", "")), processes)
    send = functools.partial(publish, ledger)
    reaper = Reaper(
        ledger, send, queue=settings.queue, interval=settings.reap_seconds, strays=Strays(client, keys)
    )
    pool = getattr(getattr(sender, "pool", None), "_pool", None)
    warden = Warden(ledger, send, lambda: list(getattr(pool, "_pool", ())))
    count_with(ledger.count_rejected)
    timekeeper = Timekeeper(ledger, send, board.notes)
    presence.say()
    _presence.append(presence)
    _rounds.extend(
        Rounds(name, look, interval=interval, failed=failed, phase=phase)
        for name, look, interval, failed, phase in (
            ("presence", presence.say, Presence.INTERVAL, "could not say hello", "presence"),
            ("reaper", reaper.sweep, settings.reap_seconds, "sweep failed", "reap"),
            ("warden", warden.look, Warden.INTERVAL, "a dead process could not be reported", "reap"),
            ("timekeeper", timekeeper.look, Timekeeper.INTERVAL, "time limits not looked at", "limits"),
        )
    )
    for each in _rounds:
        each.start()
    log("worker ready", processes=processes)
    if registry.skipped():
        log(
            "functions of dbt are not replaced: the installed source is not one that was tested; runs are right, but slower",
            patches=",".join(registry.skipped()),
        )


@signals.worker_shutting_down.connect
def _shutting_down(how: str = "Warm", **_: Any) -> None:
    drain(settings.drain_seconds if how == "Warm" else 0.0)
    threading.Thread(target=_insist, name="insist", daemon=True).start()


def _insist() -> None:
    """End what can be interrupted by nothing, such as a stopped process: its lease does the rest."""
    for presence in _presence:
        with contextlib.suppress(redis.RedisError):
            presence.say()
    while seconds_left() > 0:
        time.sleep(min(1.0, seconds_left()))
    time.sleep(_HAND_BACK_SECONDS)
    for child in active_children():
        log("killing a process that does not hand its step back", pid=child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


@signals.worker_shutdown.connect
def _shutdown(**_: Any) -> None:
    for presence in _presence:
        presence.take_back()
    for rounds in _rounds:
        rounds.stop()
    log("worker stopped")
