"""What dbt-relay's own commands share: the broker they talk to, and how they write things."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from producer.cli.help import OWN_COMMANDS
from producer.embedded import stack as embedded
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo
from workers.contract.settings import read_settings

if TYPE_CHECKING:
    from producer.client import RelayClient


def about(name: str, more: str = "") -> str:
    """The help of one of our commands: what the list of all says, as a sentence."""
    text = OWN_COMMANDS[name] + more
    return f"{text[0].upper()}{text[1:]}."


def client() -> RelayClient:
    """The configured broker's, or the warm stack's. Raises RelayError when there is neither."""
    return client_of(broker_url(os.environ))


def client_if_any() -> RelayClient | None:
    """`client`, or None where there is neither."""
    if embedded.configured_broker(os.environ) or embedded.find_running(os.environ):
        return client()
    return None


def client_of(url: str) -> RelayClient:
    """A client of the broker at `url`, with the settings of the environment."""
    from producer.client import RelayClient

    settings = read_settings(os.environ)
    return RelayClient(url, namespace=settings.namespace, queue=settings.queue)


def broker_url(environ: Mapping[str, str]) -> str:
    """The configured broker, or that of the warm stack. Raises BrokerUnavailableError when there is neither."""
    url = embedded.configured_broker(environ)
    if url:
        return url
    warm = embedded.find_running(environ)
    if warm is not None:
        return warm.broker_url
    message = "no broker is configured, and dbt-relay is not up"
    raise BrokerUnavailableError(
        message,
        ErrorInfo(
            code="no_broker",
            category=Category.BROKER.value,
            error_class="BrokerUnavailableError",
            message=message,
            suggested_fix="Set DBT_RELAY_BROKER_URL, or start a private stack: dbt-relay up.",
        ),
    )


def check_login(url: str) -> None:
    """Try to log in to a server. One that is not there is no error: Celery waits for it.

    Raises:
        BrokerUnavailableError: the server answers, and refuses: Celery would try again for ever.
    """
    from producer.connection_errors import ANSWERED, reaching
    from workers.contract.connection import connect

    try:
        with reaching(url), connect(url, patience=0, timeout=3) as server:
            server.ping()
    except BrokerUnavailableError as error:
        if error.info is not None and error.info.code in ANSWERED:
            raise


def processes(number: int) -> str:
    """``2 worker processes``."""
    return f"{number} worker process{'' if number == 1 else 'es'}"


def moment(seconds: float) -> str:
    """A time (seconds since the epoch) in the local zone; empty for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
