"""What follows from a claim and from the outcome of its execution: the whole table."""

from __future__ import annotations

from typing import Any

import pytest

from workers.contract.errors import ErrorInfo
from workers.contract.messages import RetryPolicy
from workers.engine.interface import Finished, StepOutcome, StepResult
from workers.ledger.records import Claim
from workers.runs.decision import (
    EXECUTE,
    Cause,
    Decision,
    EndRun,
    FailNode,
    HandBack,
    Requeue,
    Reroute,
    Retry,
    StageNodes,
    StoreResult,
    Withdraw,
    decide,
)
from workers.runs.outcome import (
    FileLocked,
    Interrupted,
    NotExecutable,
    Outcome,
    Planned,
    Rerouted,
    RunEnded,
    StepEnded,
)
from workers.supervision.lease_renewal import DRAIN, LOST, STOP
from workers.supervision.time_limits import Overrun

PLAN, START, NODE, CLOSE, COMMAND = "@plan", "@start", "model.p.a", "@close", "@command"
STEPS = (PLAN, START, NODE, CLOSE, COMMAND)
MAX_LOSSES = 3
POLICY = RetryPolicy(max_attempts=3, base_delay=2, jitter=False)


def claim(step: str, **more: Any) -> Claim:
    given: dict[str, Any] = {
        "fence": 1, "tries": 1, "losses": 0, "index": 1, "skip": False, "cause": "", "stopping": False, **more,
    }  # fmt: skip
    return Claim(run_id="r", step=step, **given)


def error(code: str, *, retryable: bool) -> ErrorInfo:
    return ErrorInfo(code=code, category="x", error_class="DbtError", message=code, retryable=retryable)


SQL = error("syntax_error", retryable=False)
LOST_CONNECTION = error("connection_lost", retryable=True)  # in the middle
REFUSED_CONNECTION = error("connection_refused", retryable=True)  # before anything was executed
PROJECT = error("project_not_found", retryable=False)


def ended(info: ErrorInfo | None = None, *, status: str = "", **more: Any) -> StepEnded:
    """A start step or a node that came to its end."""
    status = status or ("error" if info else "success")
    return StepEnded(StepOutcome(result=StepResult(unique_id=NODE, status=status, error=info)), **more)


def run_ended(info: ErrorInfo | None = None, code: int | None = None, **more: Any) -> RunEnded:
    """A close or a command that came to its end, or a step that dbt gave up."""
    return_code = (1 if info else 0) if code is None else code
    return RunEnded(Finished(return_code=return_code, error=info), [], **more)


PLANNED = Planned((), (), {})
REROUTED = Rerouted({}, {})
LOCKED = FileLocked(error("duckdb_file_locked", retryable=True), "/w.duckdb: PID 7 has it open")
OVERRUN = Overrun(limit=5.0, elapsed=6.0, soft=True)

DONE, CANCELLED, ORPHANED, GIVEN_UP = Cause.DONE, Cause.CANCELLED, Cause.ORPHANED, Cause.WORKER_LOST

# who, with which claim, how its execution ended, what follows
TABLE: list[tuple[tuple[str, ...], dict[str, Any], Outcome | None, type[Decision] | Cause | object]] = [
    # before it is executed
    (STEPS, {}, None, EXECUTE),
    (STEPS, {"losses": 2}, None, EXECUTE),
    ((PLAN, START, CLOSE, COMMAND), {"losses": 3}, None, GIVEN_UP),
    ((PLAN, START, CLOSE, COMMAND), {"losses": 3, "orphaned": True, "stopping": True}, None, GIVEN_UP),
    ((NODE,), {"losses": 3}, None, FailNode),
    ((NODE,), {"losses": 3, "orphaned": True}, None, ORPHANED),
    (STEPS, {"orphaned": True, "stopping": True}, None, ORPHANED),
    ((PLAN, COMMAND), {"stopping": True}, None, CANCELLED),
    ((START, NODE, CLOSE), {"stopping": True}, None, EXECUTE),
    ((NODE,), {"busy": "other run"}, None, FailNode),
    ((NODE,), {"skip": True}, None, EXECUTE),
    # this worker cannot execute it
    ((NODE,), {}, NotExecutable(PROJECT), FailNode),
    ((PLAN, START, COMMAND), {}, NotExecutable(PROJECT), DONE),
    (STEPS, {}, LOCKED, Retry),
    (STEPS, {"tries": 3}, LOCKED, EXECUTE),  # the last attempt: dbt reports it
    (STEPS, {"tries": 3, "handed": 1}, LOCKED, Retry),
    # it came to its end
    ((PLAN,), {}, PLANNED, StageNodes),
    ((PLAN, COMMAND), {}, REROUTED, Reroute),
    ((START, NODE), {}, ended(), StoreResult),
    ((CLOSE, COMMAND, PLAN), {}, run_ended(), DONE),
    ((START, NODE), {}, ended(interrupted=LOST), StoreResult),  # success counts whatever happened meanwhile
    ((NODE,), {"skip": True}, ended(status="skipped"), StoreResult),
    # a node failed
    ((NODE,), {}, ended(SQL), StoreResult),
    ((NODE,), {}, ended(LOST_CONNECTION), Retry),
    ((NODE,), {"tries": 2}, ended(LOST_CONNECTION), Retry),
    ((NODE,), {"tries": 3}, ended(LOST_CONNECTION), StoreResult),
    ((NODE,), {"tries": 3, "handed": 1}, ended(LOST_CONNECTION), Retry),
    (
        (NODE,),
        {},
        ended(LOST_CONNECTION, overrun=OVERRUN),
        StoreResult,
    ),  # a time limit is no transient failure
    # hooks run once: they are tried again only where nothing was executed
    ((START,), {}, ended(status="error"), StoreResult),
    ((START,), {}, run_ended(REFUSED_CONNECTION, gave_up=True), Retry),
    ((START,), {}, run_ended(LOST_CONNECTION, gave_up=True), DONE),
    ((CLOSE, COMMAND), {}, run_ended(REFUSED_CONNECTION, gave_up=True), Retry),
    ((CLOSE, COMMAND), {}, run_ended(LOST_CONNECTION, gave_up=True), DONE),
    ((CLOSE, COMMAND), {"tries": 3}, run_ended(REFUSED_CONNECTION, gave_up=True), DONE),
    ((CLOSE, COMMAND), {}, run_ended(code=1), DONE),
    ((PLAN,), {}, run_ended(REFUSED_CONNECTION, gave_up=True), DONE),  # dbt refuses to plan
    ((PLAN,), {}, run_ended(REFUSED_CONNECTION), Retry),  # a run that is executed as one command
    # it was interrupted in the middle
    (STEPS, {}, Interrupted(DRAIN), HandBack),
    (STEPS, {}, Interrupted(LOST), Requeue),
    ((PLAN, COMMAND), {}, Interrupted(STOP), CANCELLED),
    ((START, NODE, CLOSE), {}, Interrupted(STOP), Withdraw),
    # dbt took the interruption for a failure
    ((NODE,), {}, ended(SQL, interrupted=DRAIN), HandBack),
    ((NODE,), {}, ended(SQL, interrupted=LOST), Requeue),
    ((NODE,), {}, ended(SQL, interrupted=STOP), Withdraw),
    ((START,), {}, ended(status="error", interrupted=DRAIN), HandBack),
    ((START,), {}, ended(status="error", interrupted=LOST), StoreResult),
    ((NODE,), {"skip": True}, ended(status="skipped", interrupted=DRAIN), HandBack),
    ((NODE,), {"skip": True}, ended(status="skipped", interrupted=LOST), StoreResult),
    ((START, CLOSE, COMMAND), {}, run_ended(SQL, gave_up=True, interrupted=DRAIN), HandBack),
    ((START, CLOSE, COMMAND), {}, run_ended(SQL, gave_up=True, interrupted=LOST), Requeue),
    ((COMMAND, PLAN), {}, run_ended(SQL, gave_up=True, interrupted=STOP), CANCELLED),
    ((COMMAND,), {}, run_ended(code=1, interrupted=LOST), Requeue),
    ((CLOSE,), {}, run_ended(code=1, interrupted=LOST), DONE),  # its hooks ran to their end
    ((CLOSE,), {}, run_ended(code=1, interrupted=DRAIN), HandBack),
    ((CLOSE, COMMAND), {}, run_ended(interrupted=DRAIN), DONE),
]


@pytest.mark.parametrize(
    ("step", "of_claim", "outcome", "expected"),
    [(step, *row) for steps, *row in TABLE for step in steps],
)
def test_decision(step: str, of_claim: dict[str, Any], outcome: Outcome | None, expected: Any) -> None:
    decision = decide(claim(step, **of_claim), outcome, POLICY, MAX_LOSSES)
    if isinstance(expected, Cause):
        assert isinstance(decision, EndRun)
        assert decision.cause is expected
    elif expected is EXECUTE:
        assert decision is EXECUTE
    else:
        assert isinstance(decision, expected)


def test_retry_waits_as_the_policy_of_the_run_says() -> None:
    delays = []
    for tries in (1, 2):
        decision = decide(claim(NODE, tries=tries), ended(LOST_CONNECTION), POLICY, MAX_LOSSES)
        assert isinstance(decision, Retry)
        delays.append(decision.delay)
    assert delays == [2, 4]


def test_retry_for_a_locked_file_names_its_holder() -> None:
    decision = decide(claim(NODE), LOCKED, POLICY, MAX_LOSSES)
    assert isinstance(decision, Retry)
    assert decision.waits_for == LOCKED.holder


def test_error_of_a_node_past_its_limit_is_the_time_limit() -> None:
    outcome = ended(SQL, overrun=OVERRUN)
    decision = decide(claim(NODE), outcome, POLICY, MAX_LOSSES)
    assert isinstance(decision, StoreResult)
    assert decision.overran
    assert decision.outcome.result.error is not None
    assert decision.outcome.result.error.code == "time_limit"
    assert outcome.outcome.result.error is SQL


def test_test_that_found_rows_past_its_limit_fails_for_the_rows() -> None:
    decision = decide(claim(NODE), ended(SQL, status="fail", overrun=OVERRUN), POLICY, MAX_LOSSES)
    assert isinstance(decision, StoreResult)
    assert decision.outcome.result.error is SQL


@pytest.mark.parametrize(
    ("of_claim", "code"), [({"losses": 3}, "worker_lost"), ({"busy": "other run"}, "relation_busy")]
)
def test_node_that_is_not_executed_fails_with_the_reason(of_claim: dict[str, Any], code: str) -> None:
    decision = decide(claim(NODE, **of_claim), None, POLICY, MAX_LOSSES)
    assert isinstance(decision, FailNode)
    assert (decision.error.code, decision.error.node) == (code, NODE)
