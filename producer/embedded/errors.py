"""Errors of the embedded stack. `workers.contract` is imported only when an error is raised (40 ms)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.contract.errors import RelayError


def server_error(code: str, message: str, fix: str, log: str = "") -> RelayError:
    """Return a `BrokerUnavailableError`: there is no server, or it failed. Its text ends with the fix."""
    from workers.contract.errors import BrokerUnavailableError, Category

    return _error(BrokerUnavailableError, Category.BROKER.value, code, message, fix, log)


def worker_error(code: str, message: str, fix: str, log: str = "") -> RelayError:
    """Return a `NoWorkerError`: no worker could be started. Its text ends with the fix."""
    from workers.contract.errors import Category, NoWorkerError

    return _error(NoWorkerError, Category.WORKER_LOST.value, code, message, fix, log)


def setup_error(code: str, message: str, fix: str) -> RelayError:
    """Return a `RelayError`: a setting or a folder cannot be used. Its text ends with the fix."""
    from workers.contract.errors import Category, RelayError

    return _error(RelayError, Category.CONFIGURATION.value, code, message, fix, "")


def _error(cls: type[RelayError], category: str, code: str, message: str, fix: str, log: str) -> RelayError:
    from workers.contract.errors import ErrorInfo

    info = ErrorInfo(
        code=code,
        category=category,
        error_class=cls.__name__,
        message=message,
        detail=log,
        suggested_fix=fix,
    )
    return cls("\n".join(part for part in (message, log, fix) if part), info)
