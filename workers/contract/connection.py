"""A Redis client that rides out a restart of the server."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from workers.contract.settings import redis_url

_PASSING = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)


def serves_nobody(error: BaseException | None) -> bool:
    """Whether an error says that the server is down, and not that the way to it is cut: nothing listens
    at its address, or it is still loading its data."""
    while error is not None:
        if isinstance(error, (redis.BusyLoadingError, ConnectionRefusedError, FileNotFoundError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def connect(url: str, *, patience: float = 30.0, timeout: float = 30.0) -> redis.Redis:
    """A client for `url` (Celery's or redis-py's form).

    Args:
        patience: seconds, about, that a call keeps trying while the server cannot be reached. Every
            script of the ledger may be repeated safely.
        timeout: seconds that one try waits for an answer.
    """
    attempts = 8 + int(patience)  # about a second each once the backoff reached its cap
    plain = redis_url(url)
    tcp = {} if plain.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        plain,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.02), attempts if patience else 0),
        retry_on_error=list(_PASSING),
        health_check_interval=15,
        socket_connect_timeout=min(5.0, timeout),
        socket_timeout=timeout,
        **tcp,
    )
