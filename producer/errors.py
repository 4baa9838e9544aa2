"""Public names of the errors, and the classification of dbt's console text."""

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
    """Classify a failed dbt command by its console text and exit code.

    Args:
        stdout, stderr: None where they were not captured.
        return_code: dbt's exit code: 1 for a failed node, 2 for any other error; None where it is not known.

    Returns:
        the exception, ready to raise; a plain `DbtError` where neither the text nor the exit code identifies the kind
        of failure.
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
