"""The way of a step through a worker process, with an engine that a test plays."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from workers.contract.errors import Category, DbtUsageError, ErrorInfo
from workers.contract.keys import new_run_id
from workers.contract.messages import RetryPolicy, RunRequest
from workers.contract.results import RUN_CANCELLED, RUN_FAILED, RUN_SUCCEEDED
from workers.engine.engine import CommandFailedError
from workers.engine.interface import Finished
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim
from workers.runs import claiming, failures
from workers.runs import runtime as runtime_module
from workers.runs import step as module
from workers.runs.claimed_step import ClaimedStep
from workers.runs.next_step import NextStep
from workers.runs.outcome import NotExecutable, Outcome, RunEnded
from workers.runs.runtime import Runtime
from workers.runs.step import perform
from workers.runs.task_errors import StepFailedError, TransientStepError
from workers.supervision.lease_renewal import DRAIN, LOST, STOP, StepInterrupted

COMMAND = "@command"
Played = Callable[[ClaimedStep], Outcome]


class Process:
    """A worker process whose engine does nothing. `released`: how often it closed its connections."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime: Any = object.__new__(Runtime)
        self.runtime, self.ledger = runtime, ledger
        self.released, self.sent, self.executed = 0, list[str](), list[Claim]()
        runtime.ledger, runtime.owner, runtime._runs, runtime._withheld = ledger, "h:1", OrderedDict(), []
        runtime.next_step = NextStep()
        runtime.engine = SimpleNamespace(
            release=self._release, forget=lambda _: None, fenced=lambda _: contextlib.nullcontext(),
            has_files_open=lambda: False,
        )  # fmt: skip
        runtime.leases = SimpleNamespace(
            holding=lambda _: contextlib.nullcontext(), why=None, assure=lambda: None,
            interruptible=contextlib.nullcontext,
        )  # fmt: skip
        runtime.progress = SimpleNamespace(emit=lambda _: None, flush=lambda: True)
        monkeypatch.setattr(runtime_module, "send_messages", lambda _, __, steps: self.sent.extend(steps))
        monkeypatch.setattr(module, "send_messages", lambda _, __, steps: self.sent.extend(steps))
        monkeypatch.setattr(module, "process_runtime", lambda: runtime)
        monkeypatch.setattr(module, "prepare", lambda _: None)

    def _release(self) -> None:
        self.released += 1

    def submit(self, **more: Any) -> str:
        """A command that is not split into nodes."""
        run_id = new_run_id()
        request = RunRequest(run_id=run_id, args=("debug",), cwd="/p", project_dir="/p", **more)
        self.ledger.submit(request)
        return run_id

    def perform(self, run_id: str, play: Played, task_id: str = "t") -> dict[str, Any]:
        def execute(step: ClaimedStep) -> Outcome:
            self.executed.append(step.claim)
            return play(step)

        return perform(execute, task_id, run_id, COMMAND, 1)

    def state(self, run_id: str) -> str | None:
        return self.ledger.fact(run_id, "state")


@pytest.fixture
def process(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(ledger, monkeypatch)


def succeeds(_: ClaimedStep) -> Outcome:
    return RunEnded(Finished(return_code=0), [])


def gives_up(_: ClaimedStep) -> Outcome:
    raise CommandFailedError(Finished(return_code=2))


def interrupted(why: str) -> Played:
    def play(_: ClaimedStep) -> Outcome:
        raise StepInterrupted(why)

    return play


def test_step_that_succeeds_ends_its_command(process: Process) -> None:
    run_id = process.submit()
    assert process.perform(run_id, succeeds) == {"run": run_id, "state": RUN_SUCCEEDED, "return_code": 0}
    assert process.state(run_id) == RUN_SUCCEEDED


def test_message_that_comes_twice_executes_nothing(process: Process) -> None:
    run_id = process.submit()
    process.perform(run_id, succeeds)
    assert "refused" in process.perform(run_id, succeeds)
    assert len(process.executed) == 1


def test_stopping_worker_puts_the_message_back(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = process.submit()
    monkeypatch.setattr(claiming, "draining", lambda: True)
    assert process.perform(run_id, succeeds)["refused"] == claiming.STOPPING
    assert (process.sent, process.executed) == ([COMMAND], [])


def test_claim_of_a_session_is_executed_without_another_claim(process: Process) -> None:
    run_id = process.submit()
    claim = process.ledger.claim(run_id, COMMAND, "h:1")
    assert isinstance(claim, Claim)
    claiming.pass_claim("nested", claim)
    process.perform(run_id, succeeds, "nested")
    assert process.executed == [claim]
    assert process.released == 1  # before the result is stored; the session closes its own connections


def test_cancelled_command_ends_without_dbt(process: Process) -> None:
    run_id = process.submit()
    process.ledger.cancel(run_id)
    process.perform(run_id, succeeds)
    assert (process.state(run_id), process.executed) == (RUN_CANCELLED, [])


def test_worker_without_the_project_does_not_execute(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failures.refused("no project", Category.CONFIGURATION)
    monkeypatch.setattr(module, "prepare", lambda _: NotExecutable(error))
    run_id = process.submit()
    process.perform(run_id, succeeds)
    assert (process.state(run_id), process.executed) == (RUN_FAILED, [])


def test_command_that_dbt_gives_up_ends_with_its_exit_code(process: Process) -> None:
    run_id = process.submit()
    assert process.perform(run_id, gives_up)["return_code"] == 2


@pytest.mark.parametrize(("why", "again"), [(DRAIN, True), (LOST, True), (STOP, False)])
def test_interrupted_command_is_executed_again_or_cancelled(
    process: Process, why: str, *, again: bool
) -> None:
    run_id = process.submit()
    process.perform(run_id, interrupted(why))
    assert process.sent == ([COMMAND] if again else [])
    assert process.state(run_id) == ("active" if again else RUN_CANCELLED)
    if again:
        process.perform(run_id, succeeds)
        assert process.state(run_id) == RUN_SUCCEEDED


def test_transient_failure_reaches_celery_with_the_delay(process: Process) -> None:
    def locked(_: ClaimedStep) -> Outcome:
        error = ErrorInfo(code="duckdb_file_locked", category="lock", error_class="DbtLockError",
                          message="locked", retryable=True)  # fmt: skip
        return RunEnded(Finished(return_code=2, error=error), [])

    run_id = process.submit(retry=RetryPolicy(base_delay=7, jitter=False))
    with pytest.raises(TransientStepError) as raised:
        process.perform(run_id, locked)
    assert raised.value.delay == 7
    assert process.state(run_id) == "active"


def test_result_of_a_process_that_lost_its_lease_is_not_recorded(process: Process) -> None:
    """Another process has executed the step meanwhile."""

    def loses_it(step: ClaimedStep) -> Outcome:
        process.ledger.give_back(step.claim, "handback")
        other = process.ledger.claim(run_id, COMMAND, "h:2")
        assert isinstance(other, Claim)
        return RunEnded(Finished(return_code=1), [])

    run_id = process.submit()
    assert "not recorded" in process.perform(run_id, loses_it)["refused"]
    assert process.state(run_id) == "active"


def test_request_that_cannot_be_used_ends_its_run(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: Any) -> Any:
        raise DbtUsageError("the caller's environment cannot be read")

    monkeypatch.setattr(runtime_module, "read_run", unreadable)
    run_id = process.submit()
    with pytest.raises(StepFailedError, match="cannot be read"):
        process.perform(run_id, succeeds)
    final = process.ledger.final(run_id)
    assert final is not None
    assert final.error is not None
    assert (process.state(run_id), final.return_code, final.error.code) == (RUN_FAILED, 2, "refused")


def has_unusable_request(_: ClaimedStep) -> Outcome:
    raise DbtUsageError("the caller's environment cannot be read")


@pytest.mark.parametrize("play", [succeeds, gives_up, interrupted(STOP), has_unusable_request])
def test_end_of_a_run_sends_the_messages_of_runs_that_waited_for_it(
    process: Process, monkeypatch: pytest.MonkeyPatch, play: Played
) -> None:
    """They waited for its turn, or for a relation."""
    finish = process.ledger.finish
    waiting = f"{new_run_id()} @plan"
    monkeypatch.setattr(process.ledger, "finish", lambda *args, **more: (*finish(*args, **more), waiting))
    run_id = process.submit()
    with contextlib.suppress(StepFailedError):
        process.perform(run_id, play)
    assert process.ledger.final(run_id) is not None
    assert process.sent == [waiting]


@pytest.mark.parametrize("lost", [False, True])
def test_run_that_ends_unexecuted_sends_the_messages_of_runs_that_waited_for_it(
    process: Process, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    run_id = process.submit()
    if lost:
        monkeypatch.setattr(module, "settings", SimpleNamespace(max_losses=0))
    else:
        process.ledger.cancel(run_id)
    finish = process.ledger.finish
    waiting = f"{new_run_id()} @plan"
    monkeypatch.setattr(process.ledger, "finish", lambda *args, **more: (*finish(*args, **more), waiting))
    process.perform(run_id, succeeds)
    assert (process.executed, process.sent) == ([], [waiting])


def test_steps_that_a_claim_hands_out_are_sent_at_once(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = process.submit()
    granted = msgspec.structs.replace(process.ledger.claim(run_id, COMMAND, "h:1"), publish=("model.p.a",))
    monkeypatch.setattr(module, "claim_step", lambda *_: (granted, False))
    with process.runtime.next_step.kept_of(
        run_id
    ):  # this process executes the next step of the run by itself
        process.perform(run_id, lambda _: RunEnded(Finished(return_code=0), []))
        assert process.sent[:1] == ["model.p.a"]
