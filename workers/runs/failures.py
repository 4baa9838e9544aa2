"""Errors of runs and nodes that dbt-relay itself reports. Pure."""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence

from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.ledger.records import Claim, Death
from workers.supervision import memory


def refused(message: str, category: Category) -> ErrorInfo:
    """The error of a command that was not given to dbt."""
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
        suggested_fix="Submit it again, or run `dbt-relay retry` for what did not finish.",
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
        message=message, detail=detail,
        suggested_fix=(
            "Give it more time (DBT_RELAY_RUN_DEADLINE, or Limits(deadline=…) from Python); "
            f"`dbt-relay retry {run_id}` runs what did not finish."
        ),
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
    message = f"{claim.step} ended {claim.losses} worker processes; it is not tried again"
    if claim.died is not None:
        message += f". The last ended with {claim.died.reason}{_memory_of(claim.died)}"
    return ErrorInfo(
        code="worker_lost", category=Category.WORKER_LOST.value, error_class="WorkerLostError",
        message=message, node=claim.step, attempts=claim.tries,
        suggested_fix=(
            f"{_what_to_do(claim.died)} DBT_RELAY_MAX_LOSSES sets how often a node is tried that ends its worker."
        ),
    )  # fmt: skip


def _memory_of(died: Death) -> str:
    seen = f"; it was seen to use {memory.readable(died.peak)}" if died.peak else ""
    of = f" of the {memory.readable(died.limit)} that its worker may use" if seen and died.limit else ""
    killed = "; the kernel killed a process at that time because memory ran out" if died.oom else ""
    return seen + of + killed


def _what_to_do(died: Death | None) -> str:
    more = (
        "give its worker more memory (the container's limit), let it run fewer nodes at once (--concurrency), "
        "bound what one query takes (DuckDB: `memory_limit` under `settings` in profiles.yml), or make the "
        "model smaller."
    )
    if died is None:
        return (
            "Its worker stopped responding: look for the reason in the kernel's log (out of memory) and in the "
            f"worker's log. If memory ran out, {more}"
        )
    if died.code >= 0:
        return (
            "Something that it calls ends the process (sys.exit, os._exit): look for that in the model's "
            "Python code and packages, and in the worker's log."
        )
    if -died.code == signal.SIGKILL:
        if died.oom or died.peak > 0.8 * died.limit > 0:
            return f"Memory ran out: {more}"
        return (
            "It was killed. Usually the kernel does that when memory runs out, and its log says so. "
            f"If so, {more}"
        )
    return (
        "It crashed in native code: in the warehouse's driver, or in a package that a Python model uses. Install "
        "another version of it. With PYTHONFAULTHANDLER=1 in its environment the worker's log shows where."
    )
