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

from workers.app import settings
from workers.contract.command_line import pack
from workers.contract.connection import connect
from workers.contract.keys import Keys, release_queue
from workers.contract.log import configure, log, own_stderr
from workers.engine.patches import registry
from workers.ledger.ledger import Ledger
from workers.runs.runtime import forget_predecessor, publish
from workers.sessions.stale_lock_holders import StaleLockHolders
from workers.supervision import memory
from workers.supervision.child_lease_renewal import ChildLeaseRenewer
from workers.supervision.child_monitor import ChildMonitor
from workers.supervision.drain import drain, seconds_left
from workers.supervision.message_guard import count_with
from workers.supervision.periodic_thread import PeriodicThread
from workers.supervision.reaper import Reaper
from workers.supervision.shared_table import timed_nodes
from workers.supervision.time_limit_enforcement import TimeLimitEnforcer
from workers.supervision.worker_registry import WorkerRegistration

_HAND_BACK_SECONDS = 15.0
"""What cancelling a query over the network and handing a step back may take."""

_WORKER_LOGGERS = ("celery", "kombu", "amqp", "billiard", "redis")
"""Libraries that only the worker uses, and dbt does not."""

_presence: list[WorkerRegistration] = []
_rounds: list[PeriodicThread] = []


@signals.setup_logging.connect
def _logging(loglevel: Any = None, **_: Any) -> None:
    """Our own logger beside a plain root logger: connecting this signal keeps Celery's hands off.

    While a step executes, the root logger and descriptor 2 are the caller's. The libraries of the worker itself
    log from threads of their own then, so they have the handler, too.
    """
    import logging

    stream = own_stderr()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=loglevel or "WARNING", handlers=[handler])
    for name in _WORKER_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(loglevel or "WARNING")
    configure(settings.log_format, settings.log_level, stream)


@signals.celeryd_after_setup.connect
def _consume_release_queue(instance: Any = None, **_: Any) -> None:
    """Take what workers with another dbt pass on to those with this one."""
    from workers.engine.dbt_release import release

    if instance is not None and settings.queue in instance.app.amqp.queues.consume_from:
        instance.app.amqp.queues.select_add(release_queue(settings.queue, release()))


@signals.worker_init.connect
def _before_the_pool(sender: Any = None, **_: Any) -> None:
    """Load dbt before the pool forks: its children share the pages, and so does whoever takes the place of one
    that has grown. Celery looks at that after each task (``worker_max_memory_per_child``, which goes first)."""
    if sender is not None and not sender.max_memory_per_child:
        most = int(settings.process_memory * 2**20) or memory.share(sender.concurrency)
        sender.max_memory_per_child = most // 1024
    import workers.engine.engine
    import workers.tasks  # noqa: F401

    gc.collect()
    gc.freeze()


@signals.worker_ready.connect
def _ready(sender: Any = None, **_: Any) -> None:
    keys, lease_ms = Keys(settings.namespace), int(settings.lease_seconds * 1000)
    url = settings.broker_url or "redis://127.0.0.1:6379/0"
    client = connect(url)
    ledger = Ledger(client, keys=keys, lease_ms=lease_ms, result_ttl=settings.result_ttl)
    processes = int(getattr(getattr(sender, "controller", None), "concurrency", 0) or 0)
    from workers.engine import command_line, dbt_release

    presence = WorkerRegistration(
        client, keys, str(getattr(sender, "hostname", "")), processes,
        dbt=dbt_release.release(), adapters=dbt_release.adapters(),
        command_line=pack(command_line.pack(command_line.describe_dbt())),
    )  # fmt: skip
    send = functools.partial(publish, ledger)
    reaper = Reaper(
        ledger,
        send,
        queue=settings.queue,
        interval=settings.reap_seconds,
        strays=StaleLockHolders(client, keys),
    )
    pool = getattr(getattr(sender, "pool", None), "_pool", None)
    warden = ChildMonitor(ledger, send, lambda: list(getattr(pool, "_pool", ())))
    count_with(ledger.count_rejected)
    timekeeper = TimeLimitEnforcer(ledger, send, timed_nodes.values)
    impatient = connect(url, patience=0, timeout=settings.lease_seconds / 3)
    child_leases = ChildLeaseRenewer(Ledger(impatient, keys=keys, lease_ms=lease_ms))
    presence.publish()
    _presence.append(presence)
    _rounds.extend(
        PeriodicThread(name, look, interval=interval, failed=failed, phase=phase)
        for name, look, interval, failed, phase in (
            ("presence", presence.publish, WorkerRegistration.INTERVAL, "could not say hello", "presence"),
            ("child-leases", child_leases.renew_overdue, child_leases.interval, "beat failed", "beat"),
            ("reaper", reaper.sweep, settings.reap_seconds, "sweep failed", "reap"),
            ("warden", warden.check, ChildMonitor.INTERVAL, "a dead process could not be reported", "reap"),
            (
                "timekeeper",
                timekeeper.check,
                TimeLimitEnforcer.INTERVAL,
                "time limits not looked at",
                "limits",
            ),
        )
    )
    for each in _rounds:
        each.start()
    log("worker ready", processes=processes)
    if registry.disabled():
        log("patches are turned off by DBT_RELAY_PATCHES", patches=",".join(registry.disabled()))
    if registry.skipped():
        log(
            "functions of dbt are not replaced: the installed source is not one that was tested; runs are right, but slower",
            patches=",".join(registry.skipped()),
        )


@signals.worker_process_init.connect
def _process_starts(**_: Any) -> None:
    forget_predecessor()


@signals.worker_shutting_down.connect
def _shutting_down(how: str = "Warm", **_: Any) -> None:
    drain(settings.drain_seconds if how == "Warm" else 0.0)
    threading.Thread(target=_insist, name="insist", daemon=True).start()


def _insist() -> None:
    """End what can be interrupted by nothing, such as a stopped process: its lease does the rest."""
    for presence in _presence:
        with contextlib.suppress(redis.RedisError):
            presence.publish()
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
        presence.remove()
    for rounds in _rounds:
        rounds.stop()
    log("worker stopped")
