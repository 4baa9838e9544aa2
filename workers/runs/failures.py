"""Errors of runs and nodes that dbt-relay itself reports. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.contract.errors.suggested_fixes import run as fixes
from workers.ledger.records import Claim, Death
from workers.supervision import memory


def refused(message: str, category: Category) -> ErrorInfo:
    """The error of a command that was not passed to dbt."""
    return ErrorInfo(
        code="refused", category=category.value,
        error_class=CLASS_OF_CATEGORY[category].__name__, message=message,
        suggested_fix="Submit the command again with what the message names put right.",
    )  # fmt: skip


def cancelled(reason: str) -> ErrorInfo:
    """The error of a run that was cancelled. `reason`: the caller's, or ``cancelled``."""
    return ErrorInfo(
        code="cancelled", category=Category.CANCELLED.value, error_class="DbtCancelledError",
        message=f"the run was cancelled: {reason}" if reason != "cancelled" else "the run was cancelled",
        suggested_fix=fixes.CANCELLED,
    )  # fmt: skip


def deadline_passed(reason: str, run_id: str, planned: Sequence[str], finished: Collection[str]) -> ErrorInfo:
    """The error of a run whose deadline has passed.

    Args:
        planned: every node of the run; empty where it was not planned.
        finished: those that have a result.
    """
    left = [unique_id for unique_id in planned if unique_id not in finished]
    message, detail = f"the run was cancelled: {reason}", ""
    if planned:
        done = [unique_id for unique_id in planned if unique_id in finished]
        message += f"; {len(done)} of {len(planned)} nodes had finished, {len(left)} had not"
        detail = f"finished: {', '.join(done) or 'none'}\nnot finished: {', '.join(left) or 'none'}"
    return ErrorInfo(
        code="deadline", category=Category.TIMEOUT.value, error_class="DbtTimeoutError",
        message=message, detail=detail, suggested_fix=fixes.later_deadline(run_id),
    )  # fmt: skip


def relation_busy(claim: Claim) -> ErrorInfo:
    """The error of a node whose relation another run is writing, where nodes do not wait for that."""
    return ErrorInfo(
        code="relation_busy", category=Category.LOCK.value, error_class="DbtLockError",
        message=f"{claim.step} was not started: run {claim.busy} is writing its relation",
        node=claim.step, attempts=claim.tries, retryable=True,
        suggested_fix=(
            f"Wait for it (dbt-relay watch {claim.busy}), then run `dbt-relay retry {claim.run_id}`. With "
            "DBT_RELAY_RELATION_LOCKS=wait on the workers, nodes wait for each other."
        ),
    )  # fmt: skip


def worker_lost(claim: Claim) -> ErrorInfo:
    """The error of a step under which too many worker processes ended."""
    message, died = f"{claim.step} ended {claim.losses} worker processes; it is not tried again", claim.died
    fix = fixes.worker_lost()
    if died is not None:
        message += f". The last ended with {died.reason}{_memory_of(died)}"
        fix = fixes.worker_lost(died.code, ran_out=died.oom or died.peak > 0.8 * died.limit > 0)
    return ErrorInfo(
        code="worker_lost", category=Category.WORKER_LOST.value, error_class="WorkerLostError",
        message=message, node=claim.step, attempts=claim.tries, suggested_fix=fix,
    )  # fmt: skip


def _memory_of(died: Death) -> str:
    seen = f"; it was seen to use {memory.readable(died.peak)}" if died.peak else ""
    of = f" of the {memory.readable(died.limit)} that its worker may use" if seen and died.limit else ""
    killed = "; the kernel killed a process at that time because memory ran out" if died.oom else ""
    return seen + of + killed
