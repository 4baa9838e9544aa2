"""The Celery application: ``celery -A workers.app worker``. A comment gives the reason of each changed default."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

from workers.contract.errors import DbtUsageError
from workers.contract.settings import Settings, celery_url, read_settings, tls_options


def _settings() -> Settings:
    """Read the settings. An invalid setting ends the process with one line instead of a traceback."""
    try:
        return read_settings()
    except DbtUsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from error


settings = _settings()

# A queue entry that is not a message would stop the worker (`workers.supervision.message_guard`).
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
    # kombu does not verify the certificate of rediss:// by default. Flower reads this setting too.
    broker_use_ssl=tls_options(settings.broker_url),
    task_default_queue=settings.queue,
    # The ledger requeues the steps of a lost worker. With late acknowledgement, a dropped connection would execute
    # every running node twice, and the message of a long node would be unacknowledged for hours.
    task_acks_late=False,
    # A worker that executes a long node must not hold messages that other workers could execute.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # Celery kills a pool process that is not ready within this time after its fork (4 s by default). On a busy machine
    # every process needs longer.
    worker_proc_alive_timeout=60.0,
    # Running nodes need the warehouse, not the broker: let them finish.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # After the broker refused a command (out of memory, became a replica), connect again.
    broker_channel_error_retry=True,
    # Results are stored in the ledger.
    task_ignore_result=True,
    # Flower shows tasks from the moment a worker receives their message.
    worker_send_task_events=True,
    # Only JSON is accepted: other serializers can execute code.
    task_serializer="json",
    accept_content=["json"],
    event_serializer="json",
    # A message must survive an outage of the broker of one minute.
    task_publish_retry_policy={"max_retries": 60, "interval_start": 0.1, "interval_step": 0.2,
                               "interval_max": 1.0},
    broker_transport_options={
        # Messages are acknowledged early, so recovery does not need redelivery. The timeout must exceed retry delays.
        "visibility_timeout": 7 * 24 * 3600,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        # A server that does not answer must not block the event loop forever when it acknowledges or restores a
        # message. The subscription of remote control is read without this timeout (`workers.supervision.message_guard`).
        "socket_timeout": 15,
        "health_check_interval": 15,
    },
    # A message that is not a task would stop the worker (`workers.supervision.message_guard`).
    worker_consumer="workers.supervision.message_guard:GuardedConsumer",
    # The engine captures dbt's stdout; Celery's log must not.
    worker_redirect_stdouts=False,
    # dbt-relay's own logger reports about nodes. The root logger is left to Celery.
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
