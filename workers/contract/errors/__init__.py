"""The exceptions that callers see, and the classified error that travels between workers and producers.

The exceptions::

    DbtError                        a dbt command failed
    ├── DbtUsageError               refused before submission: bad command, option, vars or name
    ├── DbtCompilationError         compilation, parsing, dependency, selection, configuration
    ├── DbtExecutionError           database, Python model, snapshot, internal
    │   ├── DbtConnectionError      the warehouse cannot be reached
    │   ├── DbtLockError            another process or session holds a lock
    │   ├── DbtTimeoutError         a time limit passed
    │   ├── DbtResourceError        out of memory or disk space
    │   └── DbtPermissionError      the warehouse denied access
    ├── DbtDataQualityError         a test failed, a contract was broken, a source is stale
    ├── DbtCancelledError           the run was cancelled
    └── RelayError                  dbt-relay failed, not dbt
        ├── BrokerUnavailableError  Redis cannot be reached
        ├── WorkerLostError         the worker process died while it executed the node, too often
        ├── NoWorkerError           no worker took the run
        └── InvalidMessageError     a message that this release cannot read

The classification, from dbt's text to `ErrorInfo`::

    classify.py                     a failure, or console output, to a classified error
    ├── failure.py                  its input: the facts about one failure
    ├── console_output.py           finds the first failure in console output
    ├── message_parser.py           splits dbt's error text into its parts
    ├── rules/                      exception classes and wordings, to error codes
    ├── error_codes.py              every code: category, message, whether it is retryable
    ├── diagnosis.py                a failure whose code is known
    ├── sql_excerpt.py              the lines of compiled SQL around the error
    └── suggested_fixes/            the suggested fix of each code
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec


class Category(str, Enum):
    """Kinds of errors. The values are stored and do not change."""

    USAGE = "usage"
    COMPILATION = "compilation"
    PARSING = "parsing"
    DEPENDENCY = "dependency"
    SELECTION = "selection"
    CONFIGURATION = "configuration"
    CONNECTION = "connection"
    LOCK = "lock_contention"
    TIMEOUT = "timeout"
    RESOURCE = "resource"
    PERMISSION = "permission"
    DATABASE = "database"
    DATA_QUALITY = "data_quality"
    CONTRACT = "contract"
    FRESHNESS = "source_freshness"
    SNAPSHOT = "snapshot"
    PYTHON_MODEL = "python_model"
    CANCELLED = "cancelled"
    WORKER_LOST = "worker_lost"
    BROKER = "broker"
    MESSAGE = "message"
    INTERNAL = "internal"


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A classified error.

    Attributes:
        code: the error code, such as ``missing_column`` (`error_codes.ERROR_CODES`). Codes do not change.
        category: a `Category` value.
        error_class: name of the exception class in this module.
        message: one short sentence.
        detail: dbt's own text.
        node: dbt's unique id of the failed node, or None.
        file: path within the project, where known.
        line: line in `file` (or in the compiled SQL when `sql_excerpt` is given), from 1.
        sql_excerpt: the compiled SQL around the error, for SQL errors.
        failures: number of failing rows, for tests.
        retryable: whether a retry may succeed with nothing changed.
        suggested_fix: how to fix the error.
        attempts: number of attempts so far.
    """

    code: str
    category: str
    error_class: str
    message: str
    detail: str = ""
    node: str | None = None
    file: str | None = None
    line: int | None = None
    sql_excerpt: str | None = None
    failures: int | None = None
    retryable: bool = False
    suggested_fix: str = ""
    attempts: int = 1


class DbtError(Exception):
    """A dbt command failed. `info` is the classified error, or None."""

    def __init__(self, message: str, info: ErrorInfo | None = None) -> None:
        super().__init__(message)
        self.info = info

    @property
    def retryable(self) -> bool:
        """Whether a retry may succeed with nothing changed."""
        return self.info is not None and self.info.retryable

    @property
    def suggested_fix(self) -> str:
        """How to fix the error, or an empty string."""
        return "" if self.info is None else self.info.suggested_fix

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.info))


class DbtUsageError(DbtError):
    """dbt-relay refused the command before it submitted a run."""


class DbtCompilationError(DbtError):
    """dbt cannot compile the project or the command. A retry cannot succeed."""


class DbtExecutionError(DbtError):
    """The warehouse or dbt failed while a node was executed."""


class DbtConnectionError(DbtExecutionError):
    """The warehouse cannot be reached, or closed the connection."""


class DbtLockError(DbtExecutionError):
    """Another process or session holds a lock that the node needs."""


class DbtTimeoutError(DbtExecutionError):
    """A time limit passed."""


class DbtResourceError(DbtExecutionError):
    """Out of memory or disk space."""


class DbtPermissionError(DbtExecutionError):
    """The warehouse denied access."""


class DbtDataQualityError(DbtError):
    """A test, contract or freshness check failed."""


class DbtCancelledError(DbtError):
    """The run was cancelled."""


class RelayError(DbtError):
    """dbt-relay failed, not dbt."""


class BrokerUnavailableError(RelayError):
    """Redis cannot be reached."""


class WorkerLostError(RelayError):
    """The worker process died while it executed the node, more often than `DBT_RELAY_MAX_LOSSES` allows."""


class NoWorkerError(RelayError):
    """No worker took the run."""


class InvalidMessageError(RelayError):
    """A message that this release cannot read."""


CLASS_OF_CATEGORY: dict[Category, type[DbtError]] = {
    Category.USAGE: DbtUsageError,
    Category.COMPILATION: DbtCompilationError,
    Category.PARSING: DbtCompilationError,
    Category.DEPENDENCY: DbtCompilationError,
    Category.SELECTION: DbtCompilationError,
    Category.CONFIGURATION: DbtCompilationError,
    Category.CONNECTION: DbtConnectionError,
    Category.LOCK: DbtLockError,
    Category.TIMEOUT: DbtTimeoutError,
    Category.RESOURCE: DbtResourceError,
    Category.PERMISSION: DbtPermissionError,
    Category.DATABASE: DbtExecutionError,
    Category.DATA_QUALITY: DbtDataQualityError,
    Category.CONTRACT: DbtDataQualityError,
    Category.FRESHNESS: DbtDataQualityError,
    Category.SNAPSHOT: DbtExecutionError,
    Category.PYTHON_MODEL: DbtExecutionError,
    Category.CANCELLED: DbtCancelledError,
    Category.WORKER_LOST: WorkerLostError,
    Category.BROKER: BrokerUnavailableError,
    Category.MESSAGE: InvalidMessageError,
    Category.INTERNAL: DbtExecutionError,
}


def exception_of(info: ErrorInfo) -> DbtError:
    """Create the exception of a classified error."""
    try:
        cls = CLASS_OF_CATEGORY[Category(info.category)]
    except ValueError:
        cls = DbtError
    return cls(info.message, info)
