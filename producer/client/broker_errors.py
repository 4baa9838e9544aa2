"""Turns errors of Redis and of its connection into `BrokerUnavailableError`, with a suggested fix."""

from __future__ import annotations

from typing import Any

import redis

from workers.contract.connection import CERTIFICATE, LOGIN, NO_TLS, WritesRefusedError, connection_refusal
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo

ANSWERED = frozenset({"broker_refuses_login", "broker_certificate", "broker_without_tls"})
"""Error codes of a server that answers, and refuses: waiting does not help."""


class BrokerErrors:
    """Context manager: raises Redis and connection errors of its block as `BrokerUnavailableError`."""

    def __init__(self, url: str, note: str = "") -> None:
        """
        Args:
            url: URL of the server.
            note: added to the message, such as `` nothing was queued``.
        """
        self._url, self._note = url, note

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        if isinstance(error, (redis.RedisError, OSError)) or type(error).__module__ == "kombu.exceptions":
            raise unavailable(self._url, error, self._note) from error


def unavailable(url: str, error: BaseException, note: str = "") -> BrokerUnavailableError:
    """Build the error for a server that cannot be reached, is full, or refuses. The URL's password is masked."""
    from workers.contract.credentials import credentials_in, mask_url, scrub

    shown, text = f"Redis at {mask_url(url)}", scrub(str(error), credentials_in(url))
    refused = _refusal(shown, text, error)
    if isinstance(error, redis.OutOfMemoryError):
        code = "broker_full"
        message = f"{shown} is full (maxmemory, noeviction):{note or ' it refused a write'}"
        fix = (
            "Make room: `dbt-relay purge --all` removes ended runs. A lower DBT_RELAY_RESULT_TTL of the workers "
            "keeps them for a shorter time. Or raise Redis' maxmemory."
        )
    elif isinstance(error, WritesRefusedError):
        code = "broker_refuses_writes"
        message = f"{shown} refuses every write{note and ':'}{note}"
        fix = (
            "The server's log has the reason. Mostly its disk is full and it cannot save its data: make room there. "
            "Or it is a replica: DBT_RELAY_BROKER_URL must name the primary."
        )
    elif refused is not None:
        code, message, fix = refused
    else:
        code, message, text = "broker_unavailable", f"{shown} cannot be reached: {text}", ""
        fix = "Start the server, or correct DBT_RELAY_BROKER_URL (or REDIS_URL); unset both for the embedded stack."
    return BrokerUnavailableError(
        message,
        ErrorInfo(
            code=code, category=Category.BROKER.value, error_class="BrokerUnavailableError", message=message,
            detail=text, retryable=True, suggested_fix=fix,
        ),
    )  # fmt: skip


def _refusal(shown: str, text: str, error: BaseException) -> tuple[str, str, str] | None:
    """Return code, message and fix for a refused login, certificate or TLS handshake; None for other errors."""
    refusal = connection_refusal(error)
    if refusal == LOGIN:
        fix = "Put user and password into the URL: redis://:PASSWORD@host:6379/0 (special characters URL-encoded)."
        return "broker_refuses_login", f"{shown} refuses the login: {text}", fix
    if refusal == CERTIFICATE:
        fix = (
            "Name the authority that signed its certificate: rediss://…?ssl_ca_certs=/path/ca.pem. The host name in the "
            "URL must be one of the certificate's. ssl_cert_reqs=none turns the check off."
        )
        return "broker_certificate", f"the certificate of {shown} cannot be verified: {text}", fix
    if refusal == NO_TLS:
        fix = "Name the server's TLS port, or write redis:// for a connection without TLS."
        return "broker_without_tls", f"{shown} does not speak TLS on this port", fix
    return None
