"""Waiting for what must become true, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A wait that succeeds costs what it takes, so patience is free: on a machine with more to do than
# cores, a process gets to its turn several times later than on an idle one.
TIMEOUT_FACTOR = 4


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "the condition",
    interval: float = 0.02,
) -> T:
    """Calls `predicate` until it gives something true, and returns that.

    Args:
        predicate: may raise AssertionError while it is not true yet; the last one is shown.
        timeout: seconds on an idle machine; `TIMEOUT_FACTOR` times as long is waited.
        message: what is waited for, or a function that tells (asked only on failure).
        interval: seconds between two calls.

    Raises:
        AssertionError: `timeout` passed.
    """
    deadline = time.monotonic() + timeout * TIMEOUT_FACTOR
    last: AssertionError | None = None
    while True:
        try:
            value = predicate()
        except AssertionError as error:
            last = error
        else:
            if value:
                return value
            last = None
        if time.monotonic() >= deadline:
            said = message() if callable(message) else message
            raise AssertionError(f"waited {timeout * TIMEOUT_FACTOR:g} s for {said}") from last
        time.sleep(interval)
