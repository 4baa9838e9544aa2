"""What goes wrong on the way to Redis, as errors of ours."""

from __future__ import annotations

from typing import Any

import redis

from workers.contract.connection import CERTIFICATE, LOGIN, NO_TLS, WritesRefusedError, connection_refusal
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo

ANSWERED = frozenset({"broker_refuses_login", "broker_certificate", "broker_without_tls"})
"""Codes of errors that do not pass by waiting: the server is there."""


class reaching:  # noqa: N801 - reads as a verb where it is used
    """Redis' own errors as ours.

    Args:
        url: of the server.
        but: what of the caller's doing is all right nevertheless, such as `` nothing was queued``.
    """

    def __init__(self, url: str, but: str = "") -> None:
        self._url, self._but = url, but

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        if isinstance(error, (redis.RedisError, OSError)) or type(error).__module__ == "kombu.exceptions":
            raise unavailable(self._url, error, self._but) from error


def unavailable(url: str, error: BaseException, but: str = "") -> BrokerUnavailableError:
    """The error for a Redis that cannot be reached, is full, or refuses every write. The URL's password is not shown."""
    from workers.contract.credentials import credentials_in, mask_url, scrub

    shown, said = f"Redis at {mask_url(url)}", scrub(str(error), credentials_in(url))
    refused = _refusal(shown, said, error)
    if isinstance(error, redis.OutOfMemoryError):
        code = "broker_full"
        message = f"{shown} is full (maxmemory, noeviction):{but or ' it refused a write'}"
        fix = (
            "Make room: `dbt-relay purge --all` removes the runs that ended (DBT_RELAY_RESULT_TTL of "
            "the workers keeps them for a shorter time); or raise Redis' maxmemory."
        )
    elif isinstance(error, WritesRefusedError):
        code = "broker_refuses_writes"
        message = f"{shown} refuses every write{but and ':'}{but}"
        fix = (
            "The server's log says why: mostly its disk is full and it cannot save its data (make room there), "
            "or it is a replica (DBT_RELAY_BROKER_URL must name the primary)."
        )
    elif refused is not None:
        code, message, fix = refused
    else:
        code, message, said = "broker_unavailable", f"{shown} cannot be reached: {said}", ""
        fix = "Start the server, or correct DBT_RELAY_BROKER_URL (or REDIS_URL); unset both for the embedded stack."
    return BrokerUnavailableError(
        message,
        ErrorInfo(
            code=code, category=Category.BROKER.value, error_class="BrokerUnavailableError", message=message,
            detail=said, retryable=True, suggested_fix=fix,
        ),
    )  # fmt: skip


def _refusal(shown: str, said: str, error: BaseException) -> tuple[str, str, str] | None:
    """Code, message and fix where a server answered and the two sides do not come together; None otherwise."""
    refusal = connection_refusal(error)
    if refusal == LOGIN:
        fix = "Put user and password into the URL: redis://:PASSWORD@host:6379/0 (special characters URL-encoded)."
        return "broker_refuses_login", f"{shown} refuses the login: {said}", fix
    if refusal == CERTIFICATE:
        fix = (
            "Give the authority that signed its certificate: rediss://…?ssl_ca_certs=/path/ca.pem; the host name in the "
            "URL must be one of the certificate's. ssl_cert_reqs=none turns the check off."
        )
        return "broker_certificate", f"the certificate of {shown} cannot be verified: {said}", fix
    if refusal == NO_TLS:
        fix = "Name the server's TLS port, or write redis:// for a connection without TLS."
        return "broker_without_tls", f"{shown} does not speak TLS on this port", fix
    return None
