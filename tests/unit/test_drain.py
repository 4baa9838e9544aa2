"""The drain state of a worker, shared with its pool."""

from __future__ import annotations

import math
import mmap
import os
from types import SimpleNamespace
from typing import Any

import pytest

from workers.supervision import drain, remote_control


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_shared", mmap.mmap(-1, 9))


def test_worker_that_is_not_draining_has_no_time_limit() -> None:
    assert not drain.draining()
    assert drain.seconds_left() == math.inf


def test_earlier_drain_counts_and_seconds_left_is_not_negative() -> None:
    drain.drain(100)
    assert 0 < drain.seconds_left() <= 100
    drain.drain(500)
    assert drain.seconds_left() <= 100
    drain.drain(0)
    assert drain.seconds_left() == 0.0
    assert drain.draining()


def test_forked_processes_see_the_drain() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(int(drain.draining() and drain.seconds_left() > 50))
    drain.drain(100)
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(
        remote_control, "os", SimpleNamespace(kill=lambda *args: sent.append(args), getpid=lambda: 7)
    )
    return sent


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 60.0), ({"grace": None}, 60.0), ({"grace": 3}, 3.0)])
def test_remote_control_drains_like_sigterm(
    signals: list[tuple[int, int]], arguments: dict[str, Any], seconds: float
) -> None:
    assert remote_control.drain_worker(None, **arguments) == {"ok": seconds}
    assert signals == [(7, 15)]
    assert 0 < drain.seconds_left() <= seconds


@pytest.mark.parametrize("grace", [-1, "soon", [1]])
def test_invalid_grace_is_refused(signals: list[tuple[int, int]], grace: Any) -> None:
    assert "must be a number of seconds" in remote_control.drain_worker(None, grace=grace)["error"]
    assert not signals
    assert not drain.draining()
