"""Decisions in the ledger: what is written, which messages are sent, which exceptions Celery gets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import redis

from workers.contract.errors import ErrorInfo
from workers.contract.events import Event
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.engine.interface import StepOutcome, StepResult
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, StagedNode
from workers.runs import writing
from workers.runs.claimed_step import ClaimedStep
from workers.runs.decision import (
    Decision,
    FailNode,
    HandBack,
    Requeue,
    Reroute,
    Retry,
    StageNodes,
    StoreResult,
    Withdraw,
)
from workers.runs.outcome import Planned, Rerouted
from workers.runs.recording import record
from workers.runs.task_errors import StepFailedError, TransientStepError
from workers.supervision.lease_renewal import STOP, StepInterrupted

A, B = "model.p.a", "model.p.b"
ERROR = ErrorInfo(
    code="connection_lost", category="x", error_class="DbtError", message="gone", suggested_fix="wait"
)


class Process:
    """A worker process without an engine: what it sends, publishes and keeps."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.owner = ledger, "h:1"
        self.sent: list[str] = []
        self.events: list[Event] = []
        self.forgotten: list[str] = []
        self.kept: list[bool] = []
        self.engine: Any = SimpleNamespace(forget=self.forgotten.append, release=lambda: None)
        self.progress: Any = SimpleNamespace(emit=self.events.append, flush=lambda: True)
        self.leases: Any = SimpleNamespace(interruptible=contextlib.nullcontext)

    def send(self, _run_id: str, steps: tuple[str, ...]) -> None:
        self.sent += steps

    def emit_withheld(self, *, kept: bool) -> None:
        self.kept.append(kept)

    def keep(self, *_: Any) -> None:
        pass

    forget = keep

    def record(self, claim: Claim, decision: Decision) -> dict[str, Any]:
        step = ClaimedStep(cast(Any, self), cast(Any, None), claim, began=1.0)
        return record(step, decision)

    def claim(self, run_id: str, step: str) -> Claim:
        granted = self.ledger.claim(run_id, step, self.owner)
        assert isinstance(granted, Claim), granted
        return granted


@pytest.fixture
def process(ledger: Ledger) -> Process:
    return Process(ledger)


def submitted(ledger: Ledger) -> str:
    run_id = new_run_id()
    ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
    return run_id


def staged(*, session: bool = False) -> StageNodes:
    """A plan of two nodes, of which the second depends on the first."""
    nodes = (StagedNode(A, 0, 1, (B,)), StagedNode(B, 0, 1, ()))
    facts = {
        "mode": "session" if session else "message",
        "lock": "duckdb:/w" if session else "",
        "parallel": 4,
    }
    return StageNodes(Planned(nodes, (A,), facts))


def result(step: str, status: str = "success", error: ErrorInfo | None = None) -> StoreResult:
    blocks = status in {"error", "fail"}
    outcome = StepOutcome(result=StepResult(unique_id=step, status=status, error=error), blocks=blocks)
    return StoreResult(outcome, {"began": "1.0"} if step == "@start" else None)


def started(process: Process) -> str:
    """A run whose first node was handed out."""
    run_id = submitted(process.ledger)
    process.record(process.claim(run_id, "@plan"), staged())
    process.record(process.claim(run_id, "@start"), result("@start"))
    assert process.sent == ["@start", A]
    process.sent.clear()
    return run_id


def test_results_hand_out_what_waited_for_them(process: Process) -> None:
    run_id = started(process)
    assert process.record(process.claim(run_id, A), result(A)) == {
        "run": run_id,
        "node": A,
        "status": "success",
    }
    assert process.sent == [B]


def test_failed_node_is_stored_before_celery_shows_it(process: Process) -> None:
    run_id = started(process)
    with pytest.raises(StepFailedError, match="connection_lost: gone Fix: wait"):
        process.record(process.claim(run_id, A), result(A, "error", ERROR))
    stored = msgspec.json.decode(process.ledger.result(run_id, A) or b"", type=StepResult)
    assert stored.error is not None
    assert stored.error.attempts == 1
    [attempt] = [each for each in process.ledger.attempts(run_id) if each.step == A]
    assert (attempt.number, attempt.worker, attempt.status) == (1, "h:1", "error")


def test_node_without_result_of_dbt_blocks_its_descendants(process: Process) -> None:
    run_id = started(process)
    with pytest.raises(StepFailedError):
        process.record(process.claim(run_id, A), FailNode(ERROR))
    assert process.claim(run_id, B).skip


def test_retry_gives_the_step_back_and_raises_for_celery(process: Process) -> None:
    run_id = started(process)
    with pytest.raises(TransientStepError) as raised:
        process.record(process.claim(run_id, A), Retry(ERROR, 1.5, "/w: PID 7 has it open"))
    assert (raised.value.delay, raised.value.run_id, raised.value.step) == (1.5, run_id, A)
    [event] = process.events
    assert event.text == "waiting for /w: PID 7 has it open; tried again in 1.5 s"
    assert process.claim(run_id, A).tries == 2


@pytest.mark.parametrize(
    ("decision", "sent", "tries", "handed"), [(HandBack(), [A], 2, 1), (Requeue(), [A], 2, 0)]
)
def test_interrupted_step_is_executed_again(
    process: Process, decision: Decision, sent: list[str], tries: int, handed: int
) -> None:
    run_id = started(process)
    process.kept.clear()
    process.record(process.claim(run_id, A), decision)
    assert process.sent == sent
    assert process.kept == [decision != HandBack()]  # what dbt logs of a step that is handed back is dropped
    assert process.forgotten == [run_id]
    again = process.claim(run_id, A)
    assert (again.tries, again.handed) == (tries, handed)


def test_withdrawn_node_of_a_stopped_run_leaves_the_close_alone(process: Process) -> None:
    run_id = started(process)
    claim = process.claim(run_id, A)
    process.ledger.cancel(run_id)
    process.record(claim, Withdraw())
    assert process.sent == ["@close"]
    assert process.ledger.result(run_id, A) is None


def test_rerouted_step_is_claimed_by_a_session_without_counting_a_try(process: Process) -> None:
    run_id = submitted(process.ledger)
    rerouted = Rerouted({"mode": "session", "lock": "duckdb:/w"}, {"warehouse": "duckdb:/w"})
    answer = process.record(process.claim(run_id, "@plan"), Reroute(rerouted))
    assert answer == {"run": run_id, "warehouse": "duckdb:/w"}
    assert process.sent == ["@session"]
    assert process.ledger.fact(run_id, "lock") == "duckdb:/w"


@pytest.mark.parametrize(
    "decide",
    [lambda: result(A), lambda: FailNode(ERROR), lambda: Retry(ERROR, 1.0), HandBack, Requeue, Withdraw],
)
def test_process_that_lost_its_step_records_nothing(process: Process, decide: Callable[[], Decision]) -> None:
    """It records too late, or a second time after another process did."""
    run_id = started(process)
    late = process.claim(run_id, A)
    process.record(late, HandBack())
    process.record(process.claim(run_id, A), result(A))
    process.sent.clear()
    before = process.ledger.attempts(run_id)
    with pytest.raises(FenceLostError):
        process.record(late, decide())
    assert process.ledger.attempts(run_id) == before
    assert process.sent == []


@pytest.mark.parametrize("session", [True, False])
def test_plan_hands_out_the_session_or_the_first_step(process: Process, *, session: bool) -> None:
    run_id = submitted(process.ledger)
    answer = process.record(process.claim(run_id, "@plan"), staged(session=session))
    assert answer == {"run": run_id, "nodes": 2}
    assert process.sent == (["@session"] if session else ["@start"])


class Full:
    """A write that a full Redis refuses a few times."""

    def __init__(self, times: int) -> None:
        self.left, self.done = times, 0

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        self.done += 1


RUNTIME: Any = SimpleNamespace(leases=SimpleNamespace(interruptible=contextlib.nullcontext))
CLAIM: Any = SimpleNamespace(run_id="r", step="@plan")


def test_refused_write_is_repeated_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(writing.time, "sleep", waited.append)
    write = Full(3)
    writing.when_there_is_room(RUNTIME, CLAIM, write)
    assert (write.done, len(waited)) == (1, 3)


def test_step_that_waits_for_room_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise StepInterrupted(STOP)

    monkeypatch.setattr(writing.time, "sleep", interrupted)
    write = Full(1000)
    with pytest.raises(StepInterrupted):
        writing.when_there_is_room(RUNTIME, CLAIM, write)
    assert write.done == 0


def test_end_of_a_cancelled_run_waits_for_room_uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interruptible() -> None:
        raise StepInterrupted(STOP)

    monkeypatch.setattr(writing.time, "sleep", lambda _: None)
    runtime: Any = SimpleNamespace(leases=SimpleNamespace(interruptible=interruptible))
    write = Full(1)
    writing.when_there_is_room(runtime, CLAIM, write, interruptible=False)
    assert write.done == 1
