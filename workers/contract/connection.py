"""A Redis client that rides out a restart of the server."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from workers.contract.settings import redis_url

_PASSING = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
_REFUSALS = ("MISCONF ", "READONLY ", "NOREPLICAS ", "MASTERDOWN ")
"""How an answer begins by which a server refuses every write: it cannot save its data (``stop-writes-on-bgsave-error``,
a full disk), it is a replica now, or has too few of them (``min-replicas-to-write``)."""

_REFUSAL_CLASSES = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
"""redis-py's own, which leave the first word out."""


class WritesRefusedError(redis.ConnectionError):
    """The server refuses every write, whoever asks. It is away, as if it were down: its clients come again."""


def detecting_refused_writes(base: Any) -> Any:
    """A redis-py connection class by which a server that refuses every write is one that is away.

    redis-py has plain response errors for that, which nobody tries again.
    """

    class NoticingConnection(base):  # type: ignore[misc]
        # redis-py counts a failed health check by address and port, which a unix socket has not (redis-py 3957)
        port = 0

        def _wrap_socket_with_ssl(self, sock: Any) -> Any:
            # A server without TLS reads the handshake as the beginning of a command, and waits for the rest.
            before = sock.gettimeout()
            sock.settimeout(HANDSHAKE_SECONDS)
            try:
                wrapped = super()._wrap_socket_with_ssl(sock)
            except TimeoutError as error:
                raise redis.ConnectionError(_NO_HANDSHAKE) from error
            wrapped.settimeout(before)
            return wrapped

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except redis.ResponseError as error:
                text = str(error)
                if isinstance(error, _REFUSAL_CLASSES) or text.startswith(_REFUSALS):
                    raise WritesRefusedError(text) from error
                raise

    return NoticingConnection


def is_server_down(error: BaseException | None) -> bool:
    """Whether an error says that the server is down, and not that the way to it is cut: nothing listens
    at its address, it is still loading its data, or it refuses every write."""
    while error is not None:
        if isinstance(
            error, (redis.BusyLoadingError, WritesRefusedError, ConnectionRefusedError, FileNotFoundError)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


HANDSHAKE_SECONDS = 4.0
_NO_HANDSHAKE = f"no answer to the tls handshake in {HANDSHAKE_SECONDS:g} s"

LOGIN, CERTIFICATE, NO_TLS = "login", "certificate", "no tls"


def connection_refusal(error: BaseException) -> str | None:
    """Why a server that answers and this client do not come together: `LOGIN`, `CERTIFICATE` or `NO_TLS`.

    None: for another reason, such as a server that is away; waiting may help there.
    """
    text = str(error).lower()
    if isinstance(error, redis.AuthenticationError) or text.startswith(("noauth", "wrongpass")):
        return LOGIN
    if "certificate verify failed" in text:
        return CERTIFICATE
    if text == _NO_HANDSHAKE or any(
        each in text for each in ("wrong version number", "wrong_version_number", "record layer failure")
    ):
        return NO_TLS
    return None


class _Retry(Retry):
    """redis-py's, which does not try again what a server refused: its AuthenticationError is a ConnectionError."""

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        def fail_unless_refused(error: Exception, *more: Any) -> Any:
            if connection_refusal(error) is not None:
                raise error
            return fail(error, *more)

        return super().call_with_retry(do, fail_unless_refused, *args, **options)


def connect(
    url: str, *, patience: float = 30.0, timeout: float = 30.0, refusals_pass: bool = False
) -> redis.Redis:
    """A client for `url` (Celery's or redis-py's form).

    Args:
        patience: seconds, about, that a call keeps trying while the server cannot be reached. Every
            script of the ledger may be repeated safely.
        timeout: seconds that one try waits for an answer.
        refusals_pass: whether a refused login is tried again, too: an operator may be changing the password.

    Raises:
        DbtUsageError: `url` is not a URL of a Redis server.
    """
    policy = Retry if refusals_pass else _Retry
    # the first five take a second together, each further one takes one
    attempts = 5 + max(0, int(patience) - 2)
    plain = redis_url(url)
    tcp = {} if plain.startswith("unix:") else {"socket_keepalive": True}
    client = redis.Redis.from_url(
        plain,
        retry=policy(ExponentialBackoff(cap=1.0, base=0.02), attempts if patience else 0),
        retry_on_error=list(_PASSING),
        health_check_interval=15,
        socket_connect_timeout=min(5.0, timeout),
        socket_timeout=timeout,
        **tcp,
    )
    pool = client.connection_pool
    pool.connection_class = detecting_refused_writes(pool.connection_class)
    return client
