"""Errors: the exceptions that callers see, and the data that travels.

The tree::

    DbtError                        anything that went wrong with a dbt command
    ├── DbtUsageError               refused before anything was queued: bad command, flag, vars, name
    ├── DbtCompilationError         compilation, parsing, dependency, selection, configuration
    ├── DbtExecutionError           database, Python model, snapshot, internal
    │   ├── DbtConnectionError      the warehouse could not be reached
    │   ├── DbtLockError            somebody else holds what the node needs
    │   ├── DbtTimeoutError         a time limit passed
    │   ├── DbtResourceError        memory or disk ran out
    │   └── DbtPermissionError      the warehouse refused
    ├── DbtDataQualityError         a test failed, a contract was broken, a source is stale
    ├── DbtCancelledError           somebody cancelled the run
    └── RelayError                  dbt-relay's own trouble, not dbt's
        ├── BrokerUnavailableError  Redis could not be reached
        ├── WorkerLostError         the worker died under the node, too often
        ├── NoWorkerError           nobody took the run
        └── InvalidMessageError     a message that this release does not speak
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec


class Category(str, Enum):
    """What kind of trouble it is: one stable word each."""

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
        code: a stable word for the exact kind, such as ``missing_column``.
        category: a `Category` value.
        error_class: name of the exception class in this module that stands for it.
        message: one short sentence.
        detail: dbt's own text.
        node: dbt's unique id, where it belongs to a node.
        file: path within the project, where known.
        line: line in `file` (or in the compiled SQL when `sql_excerpt` is given), from 1.
        sql_excerpt: the compiled SQL around the place, for SQL errors.
        failures: number of failing rows, for tests.
        retryable: whether trying again may help with nothing changed.
        suggested_fix: what to do about it.
        attempts: how many times it was tried.
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
    """Anything that went wrong with a dbt command. `info` is the classified error, where there is one."""

    def __init__(self, message: str, info: ErrorInfo | None = None) -> None:
        super().__init__(message)
        self.info = info

    @property
    def retryable(self) -> bool:
        """Whether trying again may help with nothing changed."""
        return self.info is not None and self.info.retryable

    @property
    def suggested_fix(self) -> str:
        """What to do about it, or an empty string."""
        return "" if self.info is None else self.info.suggested_fix

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.info))


class DbtUsageError(DbtError):
    """Refused before anything was queued."""


class DbtCompilationError(DbtError):
    """The project cannot be compiled as asked: trying again cannot help."""


class DbtExecutionError(DbtError):
    """The warehouse or dbt failed while a node was executing."""


class DbtConnectionError(DbtExecutionError):
    """The warehouse could not be reached, or hung up."""


class DbtLockError(DbtExecutionError):
    """Somebody else holds what the node needs."""


class DbtTimeoutError(DbtExecutionError):
    """A time limit passed."""


class DbtResourceError(DbtExecutionError):
    """Memory or disk ran out."""


class DbtPermissionError(DbtExecutionError):
    """The warehouse refused."""


class DbtDataQualityError(DbtError):
    """The data is not what the project says it must be."""


class DbtCancelledError(DbtError):
    """Somebody cancelled the run."""


class RelayError(DbtError):
    """dbt-relay's own trouble, not dbt's."""


class BrokerUnavailableError(RelayError):
    """Redis could not be reached."""


class WorkerLostError(RelayError):
    """The worker died under the node, too often."""


class NoWorkerError(RelayError):
    """Nobody took the run."""


class InvalidMessageError(RelayError):
    """A message that this release does not speak."""


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
    """The exception that stands for a classified error, ready to raise."""
    try:
        cls = CLASS_OF_CATEGORY[Category(info.category)]
    except ValueError:
        cls = DbtError
    return cls(info.message, info)
