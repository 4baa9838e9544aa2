"""Shared by dbt-relay's own commands: the client of their broker, and formats of their output."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from producer.cli.help import OWN_COMMANDS
from producer.stacks import running_broker
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo
from workers.contract.settings import read_settings

if TYPE_CHECKING:
    from producer.client import RelayClient


def about(name: str, more: str = "") -> str:
    """Return the help of a command: its line in the list of commands, as a sentence."""
    text = OWN_COMMANDS[name] + more
    return f"{text[0].upper()}{text[1:]}."


def client() -> RelayClient:
    """Return a client of the configured broker, or of the warm stack. Raises RelayError when there is neither."""
    return client_of(broker_url(os.environ))


def client_if_any() -> RelayClient | None:
    """Return a client as `client` does; None where there is no broker."""
    return client() if running_broker(os.environ) else None


def client_of(url: str) -> RelayClient:
    """Return a client of the broker at `url`, with the settings of the environment."""
    from producer.client import RelayClient

    settings = read_settings(os.environ)
    return RelayClient(url, namespace=settings.namespace, queue=settings.queue)


def broker_url(environ: Mapping[str, str]) -> str:
    """Return the configured broker, or the warm stack's. Raises BrokerUnavailableError when there is neither."""
    url = running_broker(environ)
    if url:
        return url
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
    """Log in to a server. One that cannot be reached is no error: Celery waits for it.

    Raises:
        BrokerUnavailableError: the server refuses the login: Celery would try again forever.
    """
    from producer.client.broker_errors import ANSWERED, BrokerErrors
    from workers.contract.connection import connect

    try:
        with BrokerErrors(url), connect(url, patience=0, timeout=3) as server:
            server.ping()
    except BrokerUnavailableError as error:
        if error.info is not None and error.info.code in ANSWERED:
            raise


def processes(number: int) -> str:
    """Format a number: ``2 worker processes``."""
    return f"{number} worker process{'' if number == 1 else 'es'}"


def moment(seconds: float) -> str:
    """Format a time (seconds since the epoch) in the local zone; empty for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
