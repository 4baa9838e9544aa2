"""Enforcement of time limits by killing the process of the node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fakeredis
import msgspec
import pytest
import redis

from workers.contract.errors import DbtTimeoutError, exception_of
from workers.contract.keys import Keys, new_run_id
from workers.contract.messages import RunRequest
from workers.engine.interface import StepResult
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, Move, Refusal, StagedNode
from workers.sessions.warehouse_lock import Session, WarehouseLock
from workers.supervision.shared_table import SharedTable
from workers.supervision.time_limit_enforcement import TimedNode, TimeLimitEnforcer
from workers.supervision.time_limits import NodeLimits

A, B = "model.p.a", "model.p.b"


class World:
    """A run with two nodes, the first one claimed by a slow process, in a session or not."""

    def __init__(self, lock: str) -> None:
        self.ledger = Ledger(fakeredis.FakeRedis(), keys=Keys("test"), lease_ms=60_000)
        self.published: list[tuple[str, str]] = []
        self.killed: list[tuple[int, int]] = []
        self.table = SharedTable(4)
        self.enforcer = TimeLimitEnforcer(self.ledger, self.publish, self.table.values, kill=self.kill)
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.run_id = new_run_id()
        self.session: Session | None = None
        self.claim = self._begin(lock)

    def publish(self, run_id: str, steps: Sequence[str]) -> None:
        self.published += [(run_id, step) for step in steps]

    def kill(self, pid: int, number: int) -> None:
        self.killed.append((pid, number))
        os.kill(pid, number)

    def _begin(self, lock: str) -> Claim:
        ledger, run_id = self.ledger, self.run_id
        ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
        plan = self.claimed("@plan")
        ledger.stage(plan, [StagedNode(A, 0, 1, (B,)), StagedNode(B, 1, 1, ())], roots=(A,))
        facts: dict[str, str | int | float] = {
            "mode": "session" if lock else "message", "lock": lock, "parallel": 1,
        }  # fmt: skip
        ledger.finish(plan, Move(word="planned", facts=facts, nodes=2))
        if lock:
            entered = WarehouseLock(ledger).enter(run_id, lock, "h:1")
            assert isinstance(entered, Session)
            self.session = entered
        ledger.finish(self.claimed("@start"), Move(word="success"))
        return self.claimed(A)

    def claimed(self, step: str) -> Claim:
        session = self.session and self.session.fence
        granted = self.ledger.claim(self.run_id, "" if session else step, "h:1", session=session)
        assert isinstance(granted, Claim)
        return granted

    def post(self, *, ran: float, hard: float = 5.0, pid: int | None = None) -> None:
        """Write the entry of the process, which has executed its node for `ran` seconds."""
        now = time.monotonic()
        watched = TimedNode(
            pid=pid or self.process.pid, owner="h:1", claim=self.claim,
            limits=NodeLimits(1.0, hard), began=time.time() - ran, since=now - ran,
        )  # fmt: skip
        assert self.table.write(0, msgspec.json.encode(watched))


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def start(lock: str = "") -> World:
        made.append(World(lock))
        return made[-1]

    yield start
    for world in made:
        world.process.kill()
        world.process.communicate()


def test_node_past_its_limit_is_recorded_and_its_process_killed(make: Callable[..., World]) -> None:
    world = make()
    world.post(ran=6.2)
    world.enforcer.check()
    assert world.killed == [(world.process.pid, signal.SIGKILL)]
    assert world.process.wait(30) == -signal.SIGKILL
    raw = world.ledger.result(world.run_id, A)
    assert raw is not None
    result = msgspec.json.decode(raw, type=StepResult)
    assert result.error is not None
    assert isinstance(exception_of(result.error), DbtTimeoutError)
    assert "its time limit of 5 s has passed: it ran for 6.2 s" in result.error.message
    assert result.result["execution_time"] == pytest.approx(6.2, abs=1)
    (attempt,) = [each for each in world.ledger.attempts(world.run_id) if each.step == A]
    assert (attempt.worker, attempt.status) == ("h:1", "error")
    assert isinstance(world.ledger.claim(world.run_id, A, "h:2"), Refusal)  # it is not retried
    below = world.ledger.claim(world.run_id, B, "h:2")
    assert isinstance(below, Claim)
    assert (below.skip, below.cause) == (True, A)
    assert world.published == [(world.run_id, B)]
    world.enforcer.check()
    assert len(world.killed) == 1


@pytest.mark.parametrize("more", [{"ran": 5.5}, {"ran": 99.0, "hard": 0.0}])
def test_process_within_its_limit_is_not_killed(make: Callable[..., World], more: dict[str, float]) -> None:
    world = make()
    world.post(**more)
    world.enforcer.check()
    assert world.killed == []
    assert world.ledger.result(world.run_id, A) is None


def test_process_whose_node_just_ended_is_not_killed(make: Callable[..., World]) -> None:
    world = make()
    world.post(ran=7)
    finish = world.ledger.finish

    def meanwhile(*args: Any, **more: Any) -> tuple[str, ...]:
        world.table.clear(0)
        return finish(*args, **more)

    world.ledger.finish = meanwhile  # type: ignore[method-assign]
    world.enforcer.check()
    assert world.killed == []


def test_process_that_lost_its_step_is_killed_too(make: Callable[..., World]) -> None:
    world = make()
    world.ledger.client.zadd(world.ledger.keys.leases(), {f"{world.run_id} {A}": 1})
    assert world.ledger.reap(world.run_id, A)["what"] == "lost"
    world.post(ran=7)
    world.enforcer.check()
    assert len(world.killed) == 1
    assert world.ledger.result(world.run_id, A) is None  # the other process has the step
    with pytest.raises(FenceLostError):
        world.ledger.finish(world.claim, Move(word="success"))


def test_process_is_not_killed_before_its_node_is_recorded(make: Callable[..., World]) -> None:
    world = make()
    world.post(ran=7)
    finish = world.ledger.finish

    def away(*_: Any, **__: Any) -> tuple[str, ...]:
        raise redis.ConnectionError("away")

    world.ledger.finish = away  # type: ignore[method-assign]
    with pytest.raises(redis.ConnectionError):
        world.enforcer.check()
    assert world.killed == []
    world.ledger.finish = finish  # type: ignore[method-assign]
    world.enforcer.check()
    assert len(world.killed) == 1


def test_entry_of_dead_process_is_ignored(make: Callable[..., World]) -> None:
    world = make()
    world.process.kill()
    world.process.wait(30)
    world.post(ran=7)
    world.enforcer.check()
    world.post(ran=7, pid=os.getppid())  # nor does the entry of a process that is not a child
    world.enforcer.check()
    assert world.killed == []
    assert world.ledger.result(world.run_id, A) is None


def test_shared_table_returns_complete_entries_only() -> None:
    table = SharedTable(3)
    assert list(table.values()) == []
    assert table.write(0, b"first")
    assert table.write(2, b"third")
    assert table.write(0, b"1st")
    assert sorted(table.values()) == [b"1st", b"third"]
    table._memory[2 * 16 * 1024 + 8] ^= 1  # as if it were being written
    assert list(table.values()) == [b"1st"]
    table.clear(0)
    assert list(table.values()) == []
    assert not table.write(3, b"no such place")
    assert not table.write(0, b"x" * 20_000)
    table.clear(3)
