"""The keywords of a call that say how it runs, checked before anything is queued: threads, attempts, limits."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from producer.usage_errors import usage_error
from workers.contract.messages import Limits, RetryPolicy

Retry = RetryPolicy | bool | int
"""What callers give as `retry`: a policy; whether passing failures are tried again; or how many attempts there are in
all, the first included."""

Checked = TypeVar("Checked", RetryPolicy, Limits)


def checked_threads(threads: Any) -> int | None:
    """`threads` where it is a number of threads, None where none was given.

    Raises:
        DbtUsageError: it is no whole number from 1 on.
    """
    if threads is None or (isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1):
        return threads
    raise usage_error(
        "invalid_threads",
        f"threads is {threads!r}: it must be a whole number of at least 1.",
        "It says how many nodes of a run may execute at once, as dbt's --threads does.",
    )


def retry_policy(
    retry: Any, max_attempts: Any = None, *, default: RetryPolicy | None = None
) -> RetryPolicy | None:
    """The retry policy of a call, or None where nothing was given.

    Args:
        retry: a `Retry`, or None.
        max_attempts: executions of a node in all, in place of the policy's.
        default: the policy that holds where `retry` does not say another.

    Raises:
        DbtUsageError: one of them is of another type or out of its range, or they contradict each other.
    """
    if max_attempts is not None and (retry is False or _is_number(retry)):
        raise usage_error(
            "contradicting_retry",
            f"retry={retry!r} and max_attempts={max_attempts!r} both say how often a node is tried.",
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
            "retry=False tries each node once, retry=5 up to five times, retry=RetryPolicy(base_delay=10) says more.",
        )
    if max_attempts is not None:
        policy = _with_attempts(policy, max_attempts)
    return None if policy is None else _checked("retry", policy)


def checked_limits(limits: Any) -> Limits | None:
    """`limits` where they can be those of a run, None where none were given. Raises DbtUsageError otherwise."""
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
    """`value` as a worker will read it. msgspec checks what it decodes, and not what Python code constructs."""
    try:
        return msgspec.convert(msgspec.structs.asdict(value), type(value))
    except msgspec.ValidationError as error:
        raise usage_error(
            f"invalid_{keyword}", f"{keyword} is {value!r}, which is not valid: {error}.",
            "The field that it names is out of its range, or of another type.",
        ) from None  # fmt: skip
