"""The process that planned a run begins its session, and executes its next steps while other runs wait for a turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workers.contract.keys import SESSION, STEP_CLOSE, STEP_COMMAND, STEP_PLAN, STEP_START
from workers.runs import continuation as module
from workers.runs import session as session_module
from workers.runs.next_step import NextStep
from workers.runs.runtime import Runtime

RUN, OTHER = "20260101T000000-000000000001", "20260101T000000-000000000002"
NODE = "model.p.a"


class Process:
    """A worker process without an engine: each step that it executes makes the `following` one due.

    Attributes:
        line: the ledger's answers to whether other runs wait in line.
        queued: whether messages wait in the queue.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, line: list[bool]) -> None:
        self.executed: list[str] = []
        self.sent: list[str] = []
        self.following = {STEP_START: NODE, NODE: STEP_CLOSE}
        self.queued, self.now = True, 100.0
        runtime: Any = object.__new__(Runtime)
        runtime.next_step = NextStep()
        runtime.ledger = SimpleNamespace(
            others_wait_in_line=lambda *_: line.pop(0), queue_length=lambda _: int(self.queued)
        )
        self.runtime = cast(Runtime, runtime)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(
            "workers.runs.runtime.send_messages", lambda _, __, steps: self.sent.extend(steps)
        )
        monkeypatch.setattr(module, "execute_as_own_task", self._execute)
        monkeypatch.setattr(module, "task_events", nullcontext)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(session_module, "time", clock)

    def _execute(self, _: Any, __: Any, ___: Any, run_id: str, step: str) -> None:
        assert run_id == RUN
        self.executed.append(step)
        self.send(self.following.get(step, ""))

    def send(self, *steps: str) -> dict[str, Any]:
        self.runtime.send(RUN, tuple(filter(None, steps)))
        return {"run": RUN}

    def plan(self, plan: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        task: Any = None
        return module.perform_and_continue(task, self.runtime, RUN, plan)


def test_steps_stay_in_the_process_while_other_runs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, [True] * 3)  # the ledger is asked once before each step
    wake_up = f"{OTHER} {STEP_PLAN}"
    assert process.plan(lambda: process.send(STEP_START, wake_up)) == {"run": RUN}
    assert process.executed == [STEP_START, NODE, STEP_CLOSE]
    assert process.sent == [wake_up]


def test_message_is_sent_when_no_other_run_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, [True, False])
    process.plan(lambda: process.send(STEP_START))
    assert (process.executed, process.sent) == ([STEP_START], [NODE])


def test_message_is_sent_when_the_worker_is_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, [])
    monkeypatch.setattr(module, "draining", lambda: True)
    process.plan(lambda: process.send(STEP_START))
    assert (process.executed, process.sent) == ([], [STEP_START])


@pytest.mark.parametrize("queued", [True, False])
def test_run_gives_its_process_up_after_a_while_if_messages_wait(
    monkeypatch: pytest.MonkeyPatch, *, queued: bool
) -> None:
    process = Process(monkeypatch, [True] * 6)
    process.queued = queued
    execute = process._execute

    def takes_long(*args: Any) -> None:
        process.now += 1000
        execute(*args)

    monkeypatch.setattr(module, "execute_as_own_task", takes_long)
    process.plan(lambda: process.send(STEP_START))
    assert process.executed == ([STEP_START] if queued else [STEP_START, NODE, STEP_CLOSE])
    assert process.sent == ([NODE] if queued else [])


def test_message_is_sent_when_the_plan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, [])

    def fail() -> dict[str, Any]:
        process.send(STEP_START)
        raise LookupError

    with pytest.raises(LookupError):
        process.plan(fail)
    assert process.sent == [STEP_START]


def test_message_is_sent_when_the_step_before_it_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, [True] * 6)

    def ends(*_: Any) -> None:
        process.send(NODE)
        raise SystemExit

    monkeypatch.setattr(module, "execute_as_own_task", ends)
    with pytest.raises(SystemExit):
        process.plan(lambda: process.send(STEP_START))
    assert process.sent == [NODE]


@pytest.mark.parametrize("draining", [True, False])
def test_session_begins_in_the_process_that_planned_its_run(
    monkeypatch: pytest.MonkeyPatch, *, draining: bool
) -> None:
    """A session that begins while the worker is stopping sends its message itself."""
    process = Process(monkeypatch, [])
    monkeypatch.setattr(module, "draining", lambda: draining)
    process.plan(lambda: process.send(SESSION))
    assert (process.executed, process.sent) == ([SESSION], [])


def test_session_after_a_session_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other messages in the queue come first."""
    process = Process(monkeypatch, [])
    process.following[SESSION] = SESSION
    process.plan(lambda: process.send(SESSION))
    assert (process.executed, process.sent) == ([SESSION], [SESSION])


def keep(kept: NextStep, steps: Sequence[str], run_id: str = RUN) -> tuple[str, ...]:
    return kept.keep(run_id, steps)


def test_one_step_of_one_run_is_kept() -> None:
    kept = NextStep()
    assert keep(kept, (NODE,)) == (NODE,)
    with kept.kept_of(RUN):
        assert keep(kept, (NODE,), OTHER) == (NODE,)
        assert keep(kept, (STEP_COMMAND, STEP_PLAN)) == (STEP_COMMAND, STEP_PLAN)
        assert keep(kept, (NODE, "model.p.b")) == ("model.p.b",)
        assert keep(kept, ("model.p.c",)) == ("model.p.c",)
        assert kept.take() == NODE
        assert kept.take() == ""
    assert keep(kept, (NODE,)) == (NODE,)
