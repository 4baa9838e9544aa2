"""Redis clients that keep trying while the server restarts, and the reasons why a connection fails."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from workers.contract.settings import redis_url

_RETRYABLE = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
_REFUSALS = ("MISCONF ", "READONLY ", "NOREPLICAS ", "MASTERDOWN ")
"""Prefixes of the error with which a server refuses every write: it cannot save its data
(``stop-writes-on-bgsave-error``, a full disk), it became a replica, or it has too few replicas
(``min-replicas-to-write``)."""

_REFUSAL_CLASSES = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
"""redis-py's exceptions for some of these errors. It removes the prefix from their text."""


class WritesRefusedError(redis.ConnectionError):
    """The server refuses every write. Clients treat it like a server that is down, and retry."""


def detecting_refused_writes(base: Any) -> Any:
    """Extend a redis-py connection class to raise `WritesRefusedError` where the server refuses every write.

    redis-py raises a response error instead, which is not retried.
    """

    class WriteCheckingConnection(base):  # type: ignore[misc]
        # redis-py reports a failed health check with address and port, but a unix socket has no port (redis-py 3957)
        port = 0

        def _wrap_socket_with_ssl(self, sock: Any) -> Any:
            # A server without TLS takes the handshake for the beginning of a command, and waits for its end.
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

    return WriteCheckingConnection


def is_server_down(error: BaseException | None) -> bool:
    """Whether an error proves that the server serves no client at all.

    That is so if no server listens at the address, it is still loading its data, or it refuses every write. It is not
    so after a timeout: the network between this client and the server may have failed.
    """
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
    """Return why a server that is up and this client cannot connect: `LOGIN`, `CERTIFICATE` or `NO_TLS`.

    Returns:
        None for any other error, such as a server that is down. Then a retry may succeed.
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
    """redis-py's retry policy, which does not retry a refused login: redis-py's AuthenticationError is a ConnectionError."""

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        def fail_unless_refused(error: Exception, *more: Any) -> Any:
            if connection_refusal(error) is not None:
                raise error
            return fail(error, *more)

        return super().call_with_retry(do, fail_unless_refused, *args, **options)


def connect(
    url: str, *, patience: float = 30.0, timeout: float = 30.0, refusals_pass: bool = False
) -> redis.Redis:
    """Create a Redis client.

    Args:
        url: broker URL in Celery's or redis-py's format.
        patience: seconds, roughly, for which a call is retried while the server cannot be reached. The ledger's
            scripts may be repeated safely.
        timeout: seconds that one attempt waits for an answer.
        refusals_pass: whether a refused login is retried too: an operator may be changing the password.

    Raises:
        DbtUsageError: `url` is not a URL of a Redis server.
    """
    policy = Retry if refusals_pass else _Retry
    # the first five attempts take one second in total, each further one takes one second
    attempts = 5 + max(0, int(patience) - 2)
    plain = redis_url(url)
    tcp = {} if plain.startswith("unix:") else {"socket_keepalive": True}
    client = redis.Redis.from_url(
        plain,
        retry=policy(ExponentialBackoff(cap=1.0, base=0.02), attempts if patience else 0),
        retry_on_error=list(_RETRYABLE),
        health_check_interval=15,
        socket_connect_timeout=min(5.0, timeout),
        socket_timeout=timeout,
        **tcp,
    )
    pool = client.connection_pool
    pool.connection_class = detecting_refused_writes(pool.connection_class)
    return client
