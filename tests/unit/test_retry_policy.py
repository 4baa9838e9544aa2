"""Whether and when: pure."""

from __future__ import annotations

import pickle
from typing import Any

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
def test_may_retry(step: str, info: ErrorInfo | None, tries: int, again: bool) -> None:
    assert may_retry(step, info, tries, RetryPolicy(max_attempts=3)) is again


def test_one_attempt_means_none_again() -> None:
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
def test_waits_grow_up_to_a_cap(policy: RetryPolicy, waits: list[float]) -> None:
    assert [delay_before(tries, policy) for tries in range(1, len(waits) + 1)] == waits


def test_jitter_keeps_half_of_the_wait_and_never_exceeds_it() -> None:
    policy = RetryPolicy(base_delay=8, max_delay=60)
    drawn = [delay_before(1, policy) for _ in range(200)]
    assert all(4 <= wait <= 8 for wait in drawn)
    assert max(drawn) - min(drawn) > 1


def test_the_next_attempt_is_shown_under_the_name_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.exceptions import Retry

    from workers import tasks
    from workers.runs import steps

    sent: dict[str, Any] = {}
    monkeypatch.setattr(tasks.RelayTask, "apply_async", lambda *_, **options: sent.update(options))
    run_id = "20250101T000000-0123456789ab"
    error = steps.PassingError("duckdb_file_locked: it is locked", 1.5, run_id, "model.shop.orders")
    tasks.node.push_request(id="1", args=(run_id, "model.shop.orders"), kwargs={}, called_directly=False)
    try:
        with pytest.raises(Retry):
            tasks.node.retry(exc=pickle.loads(pickle.dumps(error)))
    finally:
        tasks.node.pop_request()
    assert (sent["countdown"], sent["shadow"]) == (1.5, "model orders")
    assert sent["argsrepr"] == f"('model.shop.orders', '{run_id}')"
