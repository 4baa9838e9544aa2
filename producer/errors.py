"""The errors under the names that callers know, and what dbt's console text says of a failure."""

from __future__ import annotations

from workers.contract.classify import classify_text
from workers.contract.errors import (
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
    exception_of,
)


def classify_dbt_error(stdout: str, stderr: str, return_code: int) -> DbtError:
    """The exception that stands for a failed dbt command, from its console text alone.

    Args:
        return_code: dbt's exit code: 1 a node failed, 2 dbt could not do it.
    """
    return exception_of(classify_text(stdout, stderr, return_code))


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
    "DbtTimeoutError",
    "DbtUsageError",
    "ErrorInfo",
    "InvalidMessageError",
    "NoWorkerError",
    "RelayError",
    "WorkerLostError",
    "classify_dbt_error",
    "exception_of",
]
