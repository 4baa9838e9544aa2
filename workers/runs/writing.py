"""What several writes of a step to the ledger share."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable

import redis

from workers.contract.errors import ErrorInfo
from workers.contract.log import log
from workers.contract.results import Attempt
from workers.ledger.records import Claim
from workers.runs.claimed_step import ClaimedStep
from workers.runs.runtime import Runtime


def attempt_of(step: ClaimedStep, status: str, error: ErrorInfo | None) -> Attempt:
    """What the run keeps of this execution of a step, which ends now."""
    return Attempt(
        step=step.claim.step, number=step.claim.tries, worker=step.runtime.owner, started_at=step.began,
        finished_at=time.time(), status=status, error=error,
    )  # fmt: skip


def when_there_is_room(
    runtime: Runtime, claim: Claim, write: Callable[[], None], *, interruptible: bool = True
) -> None:
    """Repeat a write that a full Redis refuses until it has room. The step keeps its lease meanwhile.

    Args:
        interruptible: whether the step may be interrupted meanwhile.

    Raises:
        StepInterrupted: this process must not continue the step.
    """
    waiting = runtime.leases.interruptible if interruptible else contextlib.nullcontext
    while True:
        try:
            return write()
        except redis.OutOfMemoryError:  # noqa: PERF203 - once a second
            log("Redis is full (maxmemory), waiting for room", level=logging.WARNING, run=claim.run_id,
                node=claim.step)  # fmt: skip
            with waiting():
                time.sleep(1)


def close_connections(runtime: Runtime, *, interrupted: bool) -> None:
    """Close every connection to the warehouse.

    Args:
        interrupted: whether an exception in the middle of dbt's work may have left some that only the garbage
            collector finds.
    """
    if interrupted:
        gc.collect()
    runtime.engine.release()
