"""Receivers of Celery's signals: what a worker does when it starts and when it stops."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
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
from workers.runs.sending import send_messages
from workers.sessions.stale_lock_holders import StaleLockHolders
from workers.supervision import memory
from workers.supervision.child_lease_renewal import ChildLeaseRenewer
from workers.supervision.child_monitor import ChildMonitor
from workers.supervision.drain import drain, seconds_left
from workers.supervision.message_guard import count_with
from workers.supervision.periodic_thread import PeriodicThread
from workers.supervision.process_notes import clear_notes
from workers.supervision.reaper import Reaper
from workers.supervision.shared_table import timed_nodes
from workers.supervision.time_limit_enforcement import TimeLimitEnforcer
from workers.supervision.worker_registry import WorkerRegistration

_HAND_BACK_SECONDS = 15.0
"""Time to cancel a query over the network and to hand its step back."""

_WORKER_LOGGERS = ("celery", "kombu", "amqp", "billiard", "redis")
"""Loggers of libraries that the worker uses and dbt does not."""

_registrations: list[WorkerRegistration] = []
_threads: list[PeriodicThread] = []


@signals.setup_logging.connect
def _logging(loglevel: Any = None, **_: Any) -> None:
    """Set up dbt-relay's own logger and a plain root logger. Celery sets up none where this signal has a receiver.

    While a step executes, the root logger and descriptor 2 are the caller's. The worker's libraries log from
    background threads meanwhile, so their loggers have the handler, too.
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
    """Consume the messages that workers with another dbt release send to those with this one."""
    from workers.engine.dbt_release import release

    if instance is not None and settings.queue in instance.app.amqp.queues.consume_from:
        instance.app.amqp.queues.select_add(release_queue(settings.queue, release()))


@signals.worker_init.connect
def _before_the_pool(sender: Any = None, **_: Any) -> None:
    """Load dbt before the pool forks, so that its processes share the memory pages, later ones included.

    Celery replaces a process that has grown beyond its share of memory, after a task (``worker_max_memory_per_child``,
    which overrides our limit).
    """
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

    registration = WorkerRegistration(
        client, keys, str(getattr(sender, "hostname", "")), processes,
        dbt=dbt_release.release(), adapters=dbt_release.adapters(),
        command_line=pack(command_line.pack(command_line.describe_dbt())),
    )  # fmt: skip
    count_with(ledger.count_rejected)
    registration.publish()
    _registrations.append(registration)
    pool = getattr(getattr(sender, "pool", None), "_pool", None)
    _threads.extend(_periodic_threads(ledger, registration, lambda: list(getattr(pool, "_pool", ()))))
    for thread in _threads:
        thread.start()
    log("worker ready", processes=processes)
    if registry.disabled():
        log("patches are turned off by DBT_RELAY_PATCHES", patches=",".join(registry.disabled()))
    if registry.skipped():
        log(
            "functions of dbt are not replaced: their installed source was not tested; results are right, runs slower",
            patches=",".join(registry.skipped()),
        )


def _periodic_threads(
    ledger: Ledger, registration: WorkerRegistration, processes: Callable[[], list[Any]]
) -> list[PeriodicThread]:
    """The background threads of the main process. `processes`: returns the pool's current processes."""
    send = functools.partial(send_messages, ledger)
    impatient = connect(
        settings.broker_url or "redis://127.0.0.1:6379/0", patience=0, timeout=settings.lease_seconds / 3
    )
    child_leases = ChildLeaseRenewer(Ledger(impatient, keys=ledger.keys, lease_ms=ledger.lease_ms))
    stale_holders = StaleLockHolders(ledger.client, ledger.keys)
    reaper = Reaper(
        ledger, send, queue=settings.queue, interval=settings.reap_seconds, stale_holders=stale_holders
    )
    child_monitor = ChildMonitor(ledger, send, processes)
    time_limits = TimeLimitEnforcer(ledger, send, timed_nodes.values)
    return [
        PeriodicThread(name, check, interval=interval, failed=failed, phase=phase)
        for name, check, interval, failed, phase in (
            ("presence", registration.publish, registration.INTERVAL, "registration not renewed", "presence"),
            ("child-leases", child_leases.renew_overdue, child_leases.interval, "leases not renewed", "beat"),
            ("reaper", reaper.sweep, settings.reap_seconds, "overdue steps not checked", "reap"),
            ("child-monitor", child_monitor.check, child_monitor.INTERVAL, "death not reported", "reap"),
            ("time-limits", time_limits.check, time_limits.INTERVAL, "time limits not checked", "limits"),
        )
    ]


@signals.worker_process_init.connect
def _process_starts(**_: Any) -> None:
    clear_notes()


@signals.worker_shutting_down.connect
def _shutting_down(how: str = "Warm", **_: Any) -> None:
    drain(settings.drain_seconds if how == "Warm" else 0.0)
    threading.Thread(target=_kill_after_grace, name="kill-after-grace", daemon=True).start()


def _kill_after_grace() -> None:
    """Kill processes that cannot be interrupted, such as stopped ones. Other processes execute their steps."""
    for registration in _registrations:
        with contextlib.suppress(redis.RedisError):
            registration.publish()
    while seconds_left() > 0:
        time.sleep(min(1.0, seconds_left()))
    time.sleep(_HAND_BACK_SECONDS)
    for child in active_children():
        log("killing a process that does not hand its step back", pid=child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


@signals.worker_shutdown.connect
def _shutdown(**_: Any) -> None:
    for registration in _registrations:
        registration.remove()
    for thread in _threads:
        thread.stop()
    log("worker stopped")
