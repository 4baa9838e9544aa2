"""The results of the earlier run that a run repeats in part (``dbt-relay retry``, ``dbt retry``)."""

from __future__ import annotations

from typing import Any

from workers.contract.errors import Category
from workers.engine.engine import CommandFailedError
from workers.engine.interface import Finished
from workers.ledger.ledger import Ledger
from workers.runs import failures
from workers.runs.run import Run


def previous_results(ledger: Ledger, run: Run) -> dict[str, Any] | None:
    """dbt's run results of the earlier run, or None where the run repeats no other.

    Raises:
        CommandFailedError: they are no longer kept.
    """
    if run.request.retry_of is None:
        return None
    last = ledger.final(run.request.retry_of)
    if last is None or last.run_results is None:
        error = failures.refused(
            f"run {run.request.retry_of}, which was to be retried, is no longer kept", Category.USAGE
        )
        raise CommandFailedError(Finished(return_code=2, error=error))
    return last.run_results
