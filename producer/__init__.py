"""The producer side of dbt-relay: submits dbt commands, watches them, returns classified results.

from producer import DbtRunner

result = DbtRunner().execute_command(["build"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.client import RelayClient
    from producer.errors import (
        BrokerUnavailableError,
        DbtCancelledError,
        DbtCompilationError,
        DbtConnectionError,
        DbtDataQualityError,
        DbtError,
        DbtExecutionError,
        DbtLockError,
        DbtPermissionError,
        DbtResourceError,
        DbtTimeoutError,
        DbtUsageError,
        ErrorInfo,
        InvalidMessageError,
        NoWorkerError,
        RelayError,
        WorkerLostError,
        classify_dbt_error,
    )
    from producer.retrying import retry_with_backoff
    from producer.runner import DbtRunner
    from workers.contract.messages import Limits, RetryPolicy
    from workers.contract.results import DbtResult, NodeResult

_HOME = {
    "DbtRunner": "producer.runner",
    "Limits": "workers.contract.messages",
    "RelayClient": "producer.client",
    "RetryPolicy": "workers.contract.messages",
    "DbtResult": "workers.contract.results",
    "NodeResult": "workers.contract.results",
    "retry_with_backoff": "producer.retrying",
}

__all__ = [
    "BrokerUnavailableError",
    "DbtCancelledError",
    "DbtCompilationError",
    "DbtConnectionError",
    "DbtDataQualityError",
    "DbtError",
    "DbtExecutionError",
    "DbtLockError",
    "DbtPermissionError",
    "DbtResourceError",
    "DbtResult",
    "DbtRunner",
    "DbtTimeoutError",
    "DbtUsageError",
    "ErrorInfo",
    "InvalidMessageError",
    "Limits",
    "NoWorkerError",
    "NodeResult",
    "RelayClient",
    "RelayError",
    "RetryPolicy",
    "WorkerLostError",
    "classify_dbt_error",
    "retry_with_backoff",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that the command line starts quickly."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME.get(name, "producer.errors")), name)
