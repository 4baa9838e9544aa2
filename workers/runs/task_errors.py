"""Exceptions by which Celery learns how a step ended. The ledger has recorded it before they are raised."""

from __future__ import annotations

from typing import Any


class TransientStepError(Exception):
    """A step failed for a reason that may pass. Celery's autoretry brings its message back.

    Attributes:
        delay: seconds before the next attempt.
        run_id, step: which step of which run.
    """

    def __init__(self, message: str, delay: float, run_id: str, step: str) -> None:
        super().__init__(message)
        self.delay, self.run_id, self.step = delay, run_id, step

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.delay, self.run_id, self.step))


class StepFailedError(Exception):
    """A step failed. Celery and Flower show it as a failure.

    Attributes:
        detail: dbt's own text, which Flower shows in place of a traceback.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.detail))
