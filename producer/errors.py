"""The errors under the names that callers know, and what dbt's console text says of a failure."""

from __future__ import annotations

import msgspec

from workers.contract.errors import (
    BrokerUnavailableError,
    Category,
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
from workers.contract.errors.classify import classify_text
from workers.contract.errors.console_output import first_failure


def classify_dbt_error(stdout: str | None, stderr: str | None, return_code: int | None) -> DbtError:
    """The exception that stands for a failed dbt command, from its console text alone.

    Args:
        stdout, stderr: None where they were not captured.
        return_code: dbt's exit code: 1 a node failed, 2 dbt could not do it; None where it is not known.

    Returns:
        a plain `DbtError` where neither the text nor the exit code says what kind of failure it is.
    """
    out, err = stdout or "", stderr or ""
    info = classify_text(out, err, return_code)
    if info.category == Category.INTERNAL.value and first_failure(out, err) is None:
        return DbtError(info.message, msgspec.structs.replace(info, error_class=DbtError.__name__))
    return exception_of(info)


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
