"""Retry policy: which failures are tried again, and after how long."""

from __future__ import annotations

import pytest

from workers.contract.errors import ErrorInfo
from workers.contract.messages import RetryPolicy
from workers.runs.retry_policy import delay_before, may_retry


def error(code: str = "connection_lost", *, retryable: bool = True) -> ErrorInfo:
    return ErrorInfo(
        code=code, category="connection", error_class="DbtConnectionError", message="x", retryable=retryable
    )


@pytest.mark.parametrize(
    ("step", "info", "tries", "again"),
    [
        ("model.p.a", error(), 1, True),
        ("model.p.a", error(), 2, True),
        ("model.p.a", error(), 3, False),  # the policy's three attempts
        ("model.p.a", error(retryable=False), 1, False),
        ("model.p.a", None, 1, False),
        ("@start", error("connection_refused"), 1, True),
        ("@start", error("duckdb_file_locked"), 1, True),
        ("@start", error("connection_lost"), 1, False),  # some of its hooks may have run
        ("@close", error("connection_lost"), 1, False),
        ("@command", error("duckdb_file_locked"), 2, True),
        ("@command", error("duckdb_file_locked"), 3, False),
    ],
)
def test_step_is_tried_again_only_for_a_transient_failure(
    step: str, info: ErrorInfo | None, tries: int, again: bool
) -> None:
    assert may_retry(step, info, tries, RetryPolicy(max_attempts=3)) is again


def test_policy_of_one_attempt_allows_no_retry() -> None:
    assert not may_retry("model.p.a", error(), 1, RetryPolicy(max_attempts=1))


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (RetryPolicy(jitter=False), [1, 2, 4, 8, 16, 32, 60, 60]),
        (RetryPolicy(jitter=False, base_delay=0.5, max_delay=3), [0.5, 1, 2, 3, 3]),
        (RetryPolicy(jitter=False, base_delay=2, backoff_factor=3, max_delay=100), [2, 6, 18, 54, 100]),
        (RetryPolicy(jitter=False, base_delay=5, backoff_factor=1), [5, 5, 5]),
        (RetryPolicy(jitter=False, base_delay=0), [0, 0]),
    ],
)
def test_delay_grows_up_to_its_maximum(policy: RetryPolicy, waits: list[float]) -> None:
    assert [delay_before(tries, policy) for tries in range(1, len(waits) + 1)] == waits


def test_jitter_draws_between_half_of_the_delay_and_the_delay() -> None:
    policy = RetryPolicy(base_delay=8, max_delay=60)
    drawn = [delay_before(1, policy) for _ in range(200)]
    assert all(4 <= wait <= 8 for wait in drawn)
    assert max(drawn) - min(drawn) > 1
