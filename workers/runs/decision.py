"""Decides what follows from a claim and from the outcome of its execution: a result, a retry, the end of the run.

Pure but for the jitter of a retry's delay. `tests/unit/test_decision.py` has the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from workers.contract.errors import ErrorInfo
from workers.contract.keys import STEP_CLOSE, STEP_COMMAND, STEP_PLAN
from workers.contract.messages import RetryPolicy
from workers.contract.results import BAD_STATUSES
from workers.engine.interface import Finished, StepOutcome
from workers.ledger.records import Claim
from workers.runs import failures
from workers.runs.outcome import (
    Facts,
    FileLocked,
    Interrupted,
    NotExecutable,
    Outcome,
    Planned,
    Rerouted,
    RunEnded,
    StepEnded,
)
from workers.runs.retry_policy import delay_before, may_retry
from workers.supervision.lease_renewal import DRAIN, LOST


class Execute(Enum):
    """Execute the step."""

    EXECUTE = auto()


EXECUTE = Execute.EXECUTE


@dataclass(frozen=True)
class StageNodes:
    """The plan is done: put its nodes in place."""

    planned: Planned


@dataclass(frozen=True)
class StoreResult:
    """The start step or the node is done.

    Attributes:
        overran: whether it took longer than its time limit.
    """

    outcome: StepOutcome
    facts: Facts | None = None
    overran: bool = False


@dataclass(frozen=True)
class FailNode:
    """The node fails without a result of dbt's."""

    error: ErrorInfo


@dataclass(frozen=True)
class Retry:
    """Execute the step again after `delay` seconds.

    Attributes:
        waits_for: what has to pass before, for watchers of the run; empty where `error` says all.
    """

    error: ErrorInfo
    delay: float
    waits_for: str = ""


@dataclass(frozen=True)
class HandBack:
    """This worker is stopping. Another worker executes the step at once; this execution does not count as an attempt."""


@dataclass(frozen=True)
class Requeue:
    """The lease may have expired because Redis did not answer. The step is executed again, unless another worker has
    it already."""


@dataclass(frozen=True)
class Withdraw:
    """The run is being stopped: the step ends without a result."""


@dataclass(frozen=True)
class Reroute:
    """Execute the step another way, as a whole command or by a session."""

    rerouted: Rerouted


class Cause(Enum):
    """Why a run ends."""

    DONE = auto()  # with what dbt returned
    CANCELLED = auto()  # before any of it was executed, or in the middle of its only step
    ORPHANED = auto()  # it was stopped, and no worker has the dbt that planned it
    WORKER_LOST = auto()  # one of its own steps ended too many worker processes


@dataclass(frozen=True)
class EndRun:
    """The run ends.

    Attributes:
        ended: what dbt returned, for `Cause.DONE`.
        error: for `Cause.WORKER_LOST`.
    """

    cause: Cause
    ended: RunEnded | None = None
    error: ErrorInfo | None = None


Decision = (
    Execute | StageNodes | StoreResult | FailNode | Retry | HandBack | Requeue | Withdraw | Reroute | EndRun
)


def decide(claim: Claim, outcome: Outcome | None, policy: RetryPolicy, max_losses: int) -> Decision:
    """What to do with a claimed step.

    Args:
        outcome: how its execution ended; None before it is executed.
        policy: the run's.
        max_losses: how many executions of a step may end with their worker.

    Returns:
        `EXECUTE` only for no outcome, and for a file that is locked at the last attempt: dbt reports that.
    """
    match outcome:
        case None:
            decision = _before_execution(claim, max_losses)
        case NotExecutable(error=error):
            decision = _fail(claim, error)
        case FileLocked(error=error, holder=holder):
            decision = _retry(claim, error, policy, waits_for=holder) or EXECUTE
        case Planned():
            decision = StageNodes(outcome)
        case Rerouted():
            decision = Reroute(outcome)
        case StepEnded():
            decision = _after_step(claim, outcome, policy)
        case RunEnded():
            decision = _after_run(claim, outcome, policy)
        case Interrupted(why=why):
            decision = _after_interruption(claim, why)
    return decision


def _is_node(claim: Claim) -> bool:
    return not claim.step.startswith("@")


def _before_execution(claim: Claim, max_losses: int) -> Decision:
    decision: Decision = EXECUTE
    lost = claim.losses >= max_losses
    if lost and not _is_node(claim):  # it would kill worker processes forever
        decision = EndRun(Cause.WORKER_LOST, error=failures.worker_lost(claim))
    elif claim.orphaned:
        decision = EndRun(Cause.ORPHANED)
    elif claim.stopping and claim.step in {STEP_PLAN, STEP_COMMAND}:
        decision = EndRun(Cause.CANCELLED)
    elif lost:
        decision = FailNode(failures.worker_lost(claim))
    elif claim.busy:
        decision = FailNode(failures.relation_busy(claim))
    return decision


def _fail(claim: Claim, error: ErrorInfo) -> Decision:
    if _is_node(claim):
        return FailNode(msgspec.structs.replace(error, node=claim.step))
    return EndRun(Cause.DONE, RunEnded(Finished(return_code=2, error=error), []))


def _after_step(claim: Claim, ended: StepEnded, policy: RetryPolicy) -> Decision:
    result, why = ended.outcome.result, ended.interrupted
    # dbt reports a cancelled query as a failure of the node
    if why is not None and (result.error is not None or (why == DRAIN and result.status in BAD_STATUSES)):
        return _after_interruption(claim, why)
    if result.error is not None and ended.overrun is not None and result.status != "fail":
        # it failed because it was cancelled; a test that found rows was done in time
        error = ended.overrun.error(claim.step, result.error)
        result = msgspec.structs.replace(result, error=error)
    return _retry(claim, result.error, policy) or StoreResult(
        msgspec.structs.replace(ended.outcome, result=result), ended.facts, ended.overrun is not None
    )


def _after_run(claim: Claim, ended: RunEnded, policy: RetryPolicy) -> Decision:
    why = ended.interrupted
    # the hooks of a close that went through are executed twice only where the worker is stopping
    closed = claim.step == STEP_CLOSE and not ended.gave_up and why != DRAIN
    if ended.finished.return_code and why is not None and not closed:
        return _after_interruption(claim, why)
    again = None
    if claim.step != STEP_PLAN or not ended.gave_up:  # what dbt refuses to plan, it refuses again
        again = _retry(claim, ended.finished.error, policy)
    return again or EndRun(Cause.DONE, ended)


def _after_interruption(claim: Claim, why: str) -> Decision:
    if why == DRAIN:
        return HandBack()
    if why == LOST:
        return Requeue()
    if claim.step in {STEP_PLAN, STEP_COMMAND}:
        return EndRun(Cause.CANCELLED)
    return Withdraw()


def _retry(
    claim: Claim, error: ErrorInfo | None, policy: RetryPolicy, *, waits_for: str = ""
) -> Retry | None:
    """A retry if the error is retryable and an attempt is left. An execution that was handed back is not an attempt."""
    tries = claim.tries - claim.handed
    if error is None or not may_retry(claim.step, error, tries, policy):
        return None
    return Retry(error, delay_before(tries, policy), waits_for)
