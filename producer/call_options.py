"""Checks the keywords ``threads``, ``retry``, ``max_attempts`` and ``limits`` of a call before anything is queued."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from producer.usage_errors import usage_error
from workers.contract.messages import Limits, RetryPolicy

Retry = RetryPolicy | bool | int
"""The keyword ``retry``: a policy; whether transient failures are retried; or the number of attempts in all, including
the first."""

Checked = TypeVar("Checked", RetryPolicy, Limits)


def checked_threads(threads: Any) -> int | None:
    """Return `threads`.

    Raises:
        DbtUsageError: it is neither None nor a whole number of at least 1.
    """
    if threads is None or (isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1):
        return threads
    raise usage_error(
        "invalid_threads",
        f"threads is {threads!r}: it must be a whole number of at least 1.",
        "It is the number of nodes of a run that may execute at once, as dbt's --threads.",
    )


def retry_policy(
    retry: Any, max_attempts: Any = None, *, default: RetryPolicy | None = None
) -> RetryPolicy | None:
    """Return the retry policy of a call; None where neither argument nor a default is given.

    Args:
        retry: a `Retry`, or None.
        max_attempts: executions of a node in all, in place of the policy's.
        default: the policy where `retry` is None or True; its other fields hold for a number of attempts.

    Raises:
        DbtUsageError: an argument has an invalid type or value, or they contradict each other.
    """
    if max_attempts is not None and (retry is False or _is_number(retry)):
        raise usage_error(
            "contradicting_retry",
            f"retry={retry!r} and max_attempts={max_attempts!r} both set the number of attempts.",
            "Give one of them.",
        )
    if retry is None:
        policy = default
    elif retry is True:
        policy = default or RetryPolicy()
    elif retry is False:
        policy = RetryPolicy(max_attempts=1)
    elif _is_number(retry):
        policy = _with_attempts(default, retry)
    elif isinstance(retry, RetryPolicy):
        policy = retry
    else:
        raise usage_error(
            "invalid_retry",
            f"retry is {retry!r}, of type {type(retry).__name__}: it must be True, False, a number of attempts or a "
            "RetryPolicy.",
            "retry=False executes each node once, retry=5 up to five times, retry=RetryPolicy(base_delay=10) sets delays.",
        )
    if max_attempts is not None:
        policy = _with_attempts(policy, max_attempts)
    return None if policy is None else _checked("retry", policy)


def checked_limits(limits: Any) -> Limits | None:
    """Return `limits`. Raises DbtUsageError unless they are None or valid `Limits`."""
    if limits is None or isinstance(limits, Limits):
        return None if limits is None else _checked("limits", limits)
    raise usage_error(
        "invalid_limits",
        f"limits is {limits!r}, of type {type(limits).__name__}: it must be a Limits.",
        "For example limits=Limits(time_limit=600, deadline=3600), in seconds.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _with_attempts(policy: RetryPolicy | None, attempts: int) -> RetryPolicy:
    return msgspec.structs.replace(policy or RetryPolicy(), max_attempts=attempts)


def _checked(keyword: str, value: Checked) -> Checked:
    """Check `value` as a worker's decoder will: msgspec does not check what Python code constructs."""
    try:
        return msgspec.convert(msgspec.structs.asdict(value), type(value))
    except msgspec.ValidationError as error:
        raise usage_error(
            f"invalid_{keyword}", f"{keyword} is {value!r}, which is not valid: {error}.",
            "The named field has a value out of range, or of another type.",
        ) from None  # fmt: skip
