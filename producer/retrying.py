"""Trying a whole call again. Workers retry each node by themselves; this is for callers' own loops."""

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
    """Call `func` until it succeeds, fails for good, or was called `max_attempts` times.

    It is called again after a `DbtResult` whose error is retryable, a raised `DbtError` that is, a raised
    `DbtExecutionError` that nothing is known about, and a `ConnectionError`; anything else is returned or raised at
    once. Waits are in seconds and grow by `backoff_factor` up to
    `max_delay`.

    Raises:
        ValueError: `max_attempts` is less than 1.
        whatever `func` raised last.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
    delay = base_delay
    for attempt in range(1, max_attempts + 1):
        last = attempt == max_attempts
        try:
            result = func()
        except (DbtError, ConnectionError) as error:
            if last or not _may_pass_raised(error):
                raise
        else:
            if last or not _may_pass(result):
                return result
        sleep(min(delay, max_delay))
        delay *= backoff_factor
    raise AssertionError("unreachable")


def _may_pass_raised(error: DbtError | ConnectionError) -> bool:
    if isinstance(error, (ConnectionError, BrokerUnavailableError)):
        return True
    return isinstance(error, DbtExecutionError) if error.info is None else error.retryable


def _may_pass(result: object) -> bool:
    return (
        isinstance(result, DbtResult)
        and not result.success
        and result.error is not None
        and result.error.retryable
    )
