"""Writes of a step that a full Redis refuses, and messages that a step sends."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from workers.contract.errors import DbtUsageError
from workers.runs import finishing, steps
from workers.supervision.lease_renewal import STOP, StepInterrupted


class Full:
    """A write that is refused a few times."""

    def __init__(self, times: int) -> None:
        self.left, self.done = times, 0

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        self.done += 1


HELD: Any = SimpleNamespace(leases=SimpleNamespace(interruptible=contextlib.nullcontext))
CLAIM: Any = SimpleNamespace(run_id="r", step="@plan")


def test_it_is_done_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(steps.time, "sleep", waited.append)
    write = Full(3)
    finishing.when_there_is_room(HELD, CLAIM, write)
    assert (write.done, len(waited)) == (1, 3)


def test_a_step_that_waits_for_room_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise StepInterrupted(STOP)

    monkeypatch.setattr(steps.time, "sleep", interrupted)
    write = Full(1000)
    with pytest.raises(StepInterrupted):
        finishing.when_there_is_room(HELD, CLAIM, write)
    assert write.done == 0


@pytest.mark.parametrize(
    ("due", "sent", "goes_on"),
    [
        (("@session",), (), True),
        (("other @session", "@session"), ("other @session",), True),
        (("@start",), ("@start",), False),
        ((), (), False),
    ],
)
def test_a_session_begins_in_the_process_that_planned_its_run(
    due: tuple[str, ...], sent: tuple[str, ...], *, goes_on: bool
) -> None:
    published: list[tuple[str, ...]] = []
    held: Any = SimpleNamespace(
        publish=lambda _, steps: published.append(steps),
    )
    assert steps._hand_out(held, "r", due) is goes_on
    assert published == [sent]


def test_the_end_of_a_run_sends_messages_of_runs_that_waited_for_it() -> None:
    published: list[tuple[str, ...]] = []
    runtime: Any = SimpleNamespace(
        publish=lambda _, due: published.append(due),
        ledger=SimpleNamespace(finish=lambda *_: ("other @plan",)),
        engine=SimpleNamespace(release=lambda: None),
    )
    finishing.end_unread(runtime, CLAIM, DbtUsageError("no such file"))
    assert published == [("other @plan",)]
