"""The Celery app: ``celery -A workers.app worker``. Each setting that is not Celery's default says why."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

from workers.contract.errors import DbtUsageError
from workers.contract.settings import Settings, celery_url, read_settings, tls_options


def _settings() -> Settings:
    """The settings of this process; a mistake in them ends it with a sentence, not with a traceback of Celery's."""
    try:
        return read_settings()
    except DbtUsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from error


settings = _settings()

# What is no message must not end the worker (`workers.supervision.message_guard` says how it would).
TRANSPORT_ALIASES.update(
    redis="workers.supervision.message_guard:GuardedTransport",
    rediss="workers.supervision.message_guard:GuardedTransport",
)

app = Celery(
    "dbt-relay",
    broker=celery_url(settings.broker_url or "redis://127.0.0.1:6379/0"),
    amqp="workers.supervision.message_guard:PasswordMaskingAMQP",
)
app.conf.update(
    # kombu verifies no certificate of rediss:// unless it is told to; Flower reads this, too.
    broker_use_ssl=tls_options(settings.broker_url),
    task_default_queue=settings.queue,
    # The ledger recovers what a worker loses; late acks would run every node in flight twice after
    # a dropped connection, and hold a long node's message unacknowledged for hours.
    task_acks_late=False,
    # A node that takes an hour must hide nothing behind it.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # Celery kills a pool process that did not report within this time after its fork (4 s by default). On a busy
    # machine it needs longer, and the next one would too.
    worker_proc_alive_timeout=60.0,
    # A lost broker connection says nothing about the warehouse: let nodes finish.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # Nor does a broker that refuses something (it is full, it became a replica): connect again.
    broker_channel_error_retry=True,
    # Results are in the ledger; nobody reads Celery's.
    task_ignore_result=True,
    # What Flower shows, from the moment a worker has the message.
    worker_send_task_events=True,
    # Nothing but JSON is read from the wire.
    task_serializer="json",
    accept_content=["json"],
    event_serializer="json",
    # A broker that is away for a minute must not lose a message.
    task_publish_retry_policy={"max_retries": 60, "interval_start": 0.1, "interval_step": 0.2,
                               "interval_max": 1.0},
    broker_transport_options={
        # Acks are early, so redelivery is no part of recovery: keep it far away from long retry waits.
        "visibility_timeout": 7 * 24 * 3600,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        # What the event loop asks and waits for (an ack, a lost message's return) must not hold it for ever where
        # the server no longer answers. Remote control's subscription is read without it (`workers.supervision.message_guard`).
        "socket_timeout": 15,
        "health_check_interval": 15,
    },
    # Nor must what is no task.
    worker_consumer="workers.supervision.message_guard:GuardedConsumer",
    # dbt writes to stdout; those lines are taken by the engine, not by Celery's log.
    worker_redirect_stdouts=False,
    # dbt-relay's own log says what happened to a node; Celery's says when something is wrong.
    worker_hijack_root_logger=True,
    imports=["workers.tasks", "workers.lifecycle", "workers.supervision.remote_control"],
    enable_utc=True,
    timezone="UTC",
)  # fmt: skip


@signals.import_modules.connect  # type: ignore[untyped-decorator]
def _prepare_dbt(**_: Any) -> None:
    """Prepare the process for dbt, before Celery imports the tasks and with them dbt.

    Raises:
        SystemExit: the engine cannot drive the installed dbt, or ``DBT_RELAY_PATCHES`` is wrong; with what to do.
    """
    from workers.engine.startup import UnsupportedDbtError, prepare

    try:
        prepare(settings.patches)
    except UnsupportedDbtError as error:
        raise SystemExit(str(error)) from None
    except DbtUsageError as error:
        raise SystemExit(f"dbt-relay: {error}") from None
