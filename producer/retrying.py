"""Retries of a whole call, for callers' own loops. Workers retry single nodes by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from workers.contract.errors import BrokerUnavailableError, DbtError, DbtExecutionError
from workers.contract.results import DbtResult

Result = TypeVar("Result")


def retry_with_backoff(
    func: Callable[[], Result],
    max_attempts: int = 3,
    base_delay: float = 1.0,
    max_delay: float = 60.0,
    backoff_factor: float = 2.0,
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> Result:
    """Call `func` until it succeeds, fails permanently, or was called `max_attempts` times.

    It is called again after a `DbtResult` with a retryable error, a retryable `DbtError`, a `DbtExecutionError` without
    `info`, and a `ConnectionError`. Any other result is returned, and any other exception raised, at once.

    Args:
        max_attempts: calls in all.
        base_delay: seconds before the second call.
        max_delay: upper limit of a delay, in seconds.
        backoff_factor: by which each delay is longer than the one before.
        sleep: called with each delay.

    Raises:
        ValueError: `max_attempts` is less than 1.
        the exception of the last call.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
    delay = base_delay
    for attempt in range(1, max_attempts + 1):
        last = attempt == max_attempts
        try:
            result = func()
        except (DbtError, ConnectionError) as error:
            if last or not _is_retryable_exception(error):
                raise
        else:
            if last or not _is_retryable_result(result):
                return result
        sleep(min(delay, max_delay))
        delay *= backoff_factor
    raise AssertionError("unreachable")


def _is_retryable_exception(error: DbtError | ConnectionError) -> bool:
    if isinstance(error, (ConnectionError, BrokerUnavailableError)):
        return True
    return isinstance(error, DbtExecutionError) if error.info is None else error.retryable


def _is_retryable_result(result: object) -> bool:
    return (
        isinstance(result, DbtResult)
        and not result.success
        and result.error is not None
        and result.error.retryable
    )
