"""The Celery app: ``celery -A workers.app worker``. Each setting that is not Celery's default says why."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

from workers.contract.errors import DbtUsageError
from workers.contract.settings import Settings, celery_url, read_settings, tls_options


def _settings() -> Settings:
    """The settings of this process. An invalid one ends it with an error message, without Celery's traceback."""
    try:
        return read_settings()
    except DbtUsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from error


settings = _settings()

# A malformed message must not end the worker (`workers.supervision.message_guard`).
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
    # kombu does not verify certificates of rediss:// without this; Flower reads it, too.
    broker_use_ssl=tls_options(settings.broker_url),
    task_default_queue=settings.queue,
    # The ledger requeues the steps of a lost worker. Late acks would execute every running node twice after a dropped
    # connection, and leave a long node's message unacknowledged for hours.
    task_acks_late=False,
    # No message waits in a process behind a node that takes an hour.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # Celery kills a pool process that does not report within this time after its fork (4 s by default). On a busy
    # machine a process needs longer.
    worker_proc_alive_timeout=60.0,
    # Nodes may finish while the broker is away: they need the warehouse.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # Connect again to a broker that refuses something (it is full, it became a replica).
    broker_channel_error_retry=True,
    # Results are in the ledger.
    task_ignore_result=True,
    # Flower shows a task from the moment a worker has its message.
    worker_send_task_events=True,
    # Only JSON is read from the wire.
    task_serializer="json",
    accept_content=["json"],
    event_serializer="json",
    # A broker that is away for a minute must not lose a message.
    task_publish_retry_policy={"max_retries": 60, "interval_start": 0.1, "interval_step": 0.2,
                               "interval_max": 1.0},
    broker_transport_options={
        # Acks are early, so recovery does not use redelivery. It must not happen during a long retry delay.
        "visibility_timeout": 7 * 24 * 3600,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        # A server that does not answer must not block the event loop for ever while it acknowledges or restores a
        # message. The subscription of remote control is read without it (`workers.supervision.message_guard`).
        "socket_timeout": 15,
        "health_check_interval": 15,
    },
    # A message that is no task must not end the worker either.
    worker_consumer="workers.supervision.message_guard:GuardedConsumer",
    # dbt writes to stdout. The engine captures those lines, not Celery's log.
    worker_redirect_stdouts=False,
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
