"""Retry policy: which failures are tried again, and after how long."""

from __future__ import annotations

from celery.utils.time import get_exponential_backoff_interval

from workers.contract.errors import ErrorInfo
from workers.contract.keys import STEP_CLOSE, STEP_COMMAND, STEP_PLAN, STEP_START
from workers.contract.messages import RetryPolicy

_BEFORE_ANYTHING_RAN = frozenset(
    {"connection_refused", "connection_timeout", "dns_failure", "duckdb_file_locked", "earlier_attempt_alive",
     "server_unavailable", "too_many_connections"}
)  # fmt: skip
"""Codes of failures to connect: nothing was executed."""


def may_retry(step: str, error: ErrorInfo | None, tries: int, policy: RetryPolicy) -> bool:
    """Whether a step that failed with `error` in its `tries`-th execution is tried again.

    Hooks run once in a run. So a step that executes hooks is tried again only where it could not connect.
    """
    if error is None or not error.retryable or tries >= policy.max_attempts:
        return False
    if step in {STEP_PLAN, STEP_START, STEP_CLOSE, STEP_COMMAND}:
        return error.code in _BEFORE_ANYTHING_RAN
    return True


def delay_before(tries: int, policy: RetryPolicy) -> float:
    """Seconds to wait after the `tries`-th execution.

    With a factor of 2 this is Celery's own backoff (celery.utils.time, ``get_exponential_backoff_interval``). Celery's
    jitter may draw 0 s, so here it is applied to half of the delay.
    """
    if policy.backoff_factor == 2.0 and policy.base_delay >= 1 and float(policy.base_delay).is_integer():
        wait = float(
            get_exponential_backoff_interval(int(policy.base_delay), tries - 1, int(policy.max_delay) or 1)
        )
    else:
        wait = min(policy.max_delay, policy.base_delay * policy.backoff_factor ** (tries - 1))
    if not policy.jitter:
        return wait
    return wait / 2 + _spread(wait / 2)


def _spread(width: float) -> float:
    millis = int(width * 1000)
    return float(get_exponential_backoff_interval(millis, 0, millis, full_jitter=True)) / 1000
