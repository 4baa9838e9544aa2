"""Waits for conditions, in place of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A long timeout costs nothing when the wait succeeds. On an overloaded machine a process waits
# several times longer for a core than on an idle one.
TIMEOUT_FACTOR = 4


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "the condition",
    interval: float = 0.02,
) -> T:
    """Call `predicate` until it returns a true value, and return that.

    Args:
        predicate: may raise AssertionError while the condition is not met; the last one is shown.
        timeout: seconds on an idle machine; the wait takes up to `TIMEOUT_FACTOR` times as long.
        message: description of the condition, or a function that returns it (called only on failure).
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
            condition = message() if callable(message) else message
            raise AssertionError(f"waited {timeout * TIMEOUT_FACTOR:g} s for {condition}") from last
        time.sleep(interval)
