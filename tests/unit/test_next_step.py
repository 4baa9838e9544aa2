"""The process that planned a run executes its next steps without messages while other runs wait for a turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from workers import tasks
from workers.contract.keys import SESSION, STEP_CLOSE, STEP_PLAN, STEP_START
from workers.runs.next_step import NextStep

RUN, OTHER = "20260101T000000-000000000001", "20260101T000000-000000000002"
NODE = "model.p.a"


class Process:
    """A runtime that records the messages it sends. `line`: answers to whether other runs wait in line."""

    def __init__(self, line: list[bool]) -> None:
        self.next_step, self.sent = NextStep(), []
        self.ledger: Any = self
        self._line = line

    sent: list[tuple[str, ...]]

    def publish(self, run_id: str, steps: Sequence[str]) -> None:
        left = self.next_step.keep(run_id, steps)
        self.sent += [left] if left else []

    def others_wait_in_line(self, _run_id: str, _queue: str) -> bool:
        return self._line.pop(0)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that a plan task executes after its plan; each makes the next one due."""
    steps: list[str] = []
    following = {STEP_START: NODE, NODE: STEP_CLOSE}

    def perform(*_: Any) -> dict[str, Any]:
        tasks.process_runtime().publish(RUN, (STEP_START, f"{OTHER} {STEP_PLAN}"))
        return {"run": RUN}

    def trace(_: Any, __: Any, ___: str, args: tuple[str, str]) -> None:
        steps.append(args[1])
        if args[1] in following:
            tasks.process_runtime().publish(RUN, (following[args[1]],))

    monkeypatch.setattr(tasks, "_perform", perform)
    monkeypatch.setattr(tasks, "_trace_as_own_task", trace)
    monkeypatch.setattr(tasks, "_task_events", nullcontext)
    monkeypatch.setattr(tasks, "_is_wanted", lambda *_: False)
    return steps


def use(monkeypatch: pytest.MonkeyPatch, line: list[bool]) -> Process:
    process = Process(line)
    monkeypatch.setattr(tasks, "process_runtime", lambda: process)
    return process


def test_steps_stay_in_the_process_while_other_runs_wait(
    monkeypatch: pytest.MonkeyPatch, executed: list[str]
) -> None:
    process = use(monkeypatch, [True] * 4)
    tasks.plan.run(RUN)
    assert executed == [STEP_START, NODE, STEP_CLOSE]
    assert process.sent == [(f"{OTHER} {STEP_PLAN}",)]


def test_the_message_is_sent_when_no_other_run_waits(
    monkeypatch: pytest.MonkeyPatch, executed: list[str]
) -> None:
    process = use(monkeypatch, [True, True, False])
    tasks.plan.run(RUN)
    assert executed == [STEP_START]
    assert process.sent[1:] == [(NODE,)]


def test_the_message_is_sent_when_the_worker_is_stopping(
    monkeypatch: pytest.MonkeyPatch, executed: list[str]
) -> None:
    process = use(monkeypatch, [True])
    monkeypatch.setattr(tasks, "draining", lambda: True)
    tasks.plan.run(RUN)
    assert executed == []
    assert process.sent[1:] == [(STEP_START,)]


def test_the_message_is_sent_when_the_plan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    process = use(monkeypatch, [])

    def fail(*_: Any) -> dict[str, Any]:
        process.publish(RUN, (STEP_START,))
        raise ValueError

    monkeypatch.setattr(tasks, "_perform", fail)
    with pytest.raises(ValueError):  # noqa: PT011 - its own
        tasks.plan.run(RUN)
    assert process.sent == [(STEP_START,)]


def test_one_step_of_one_run_is_kept() -> None:
    kept = NextStep()
    assert kept.keep(RUN, (NODE,)) == (NODE,)
    with kept.kept_of(RUN):
        assert kept.keep(OTHER, (NODE,)) == (NODE,)
        assert kept.keep(RUN, (SESSION, STEP_PLAN)) == (SESSION, STEP_PLAN)
        assert kept.keep(RUN, (NODE, "model.p.b")) == ("model.p.b",)
        assert kept.keep(RUN, ("model.p.c",)) == ("model.p.c",)
        assert kept.take() == NODE
    assert kept.keep(RUN, (NODE,)) == (NODE,)
