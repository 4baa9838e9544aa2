"""The main process renews the leases of pool processes that cannot do it themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import pytest
import redis

from tests.support.waiting import wait_until
from workers.contract.keys import Keys, new_run_id
from workers.contract.messages import RunRequest
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Move, StagedNode, lease_clock
from workers.sessions.warehouse_lock import Session, WarehouseLock
from workers.supervision import child_processes
from workers.supervision.child_lease_renewal import ChildLeaseRenewer, HeldLeases, Lease, decode_leases
from workers.supervision.shared_table import SharedTable

A = "model.p.a"
LEASE = 60.0


class World:
    """A run with one node, which an idle process has claimed in a session."""

    def __init__(self) -> None:
        self.ledger = Ledger(fakeredis.FakeRedis(), keys=Keys("test"), lease_ms=int(LEASE * 1000))
        self.held, self.renewed = SharedTable(4), SharedTable(4)
        self.renewer = ChildLeaseRenewer(self.ledger, self.held, self.renewed)
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.run_id = new_run_id()
        self.session, self.claim = self._begin()
        self.expire()

    def _begin(self) -> tuple[Session, Claim]:
        ledger, run_id = self.ledger, self.run_id
        ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
        plan = ledger.claim(run_id, "@plan", "h:1")
        assert isinstance(plan, Claim)
        ledger.stage(plan, [StagedNode(A, 0, 1, ())], roots=(A,))
        facts: dict[str, str | int | float] = {"mode": "session", "lock": "duckdb:/f", "parallel": 1}
        ledger.finish(plan, Move(word="planned", facts=facts, nodes=1))
        session = WarehouseLock(ledger).enter(run_id, "duckdb:/f", "h:1")
        assert isinstance(session, Session)
        start = ledger.claim(run_id, "", "h:1", session=session.fence)
        assert isinstance(start, Claim)
        ledger.finish(start, Move(word="success"))
        node = ledger.claim(run_id, "", "h:1", session=session.fence)
        assert isinstance(node, Claim)
        return session, node

    def post(self, *, until: float = 0.0, pid: int | None = None, fence: int | None = None) -> None:
        """Write the leases of the process, with their expiry (0.0: overdue)."""
        until = until or lease_clock() + LEASE / 2
        held = [
            Lease(self.run_id, *self.session.held, until),
            Lease(self.run_id, A, self.claim.fence if fence is None else fence, until),
        ]
        assert self.held.write(2, msgspec.msgpack.encode(HeldLeases(pid or self.process.pid, held)))

    def expire(self) -> None:
        """Let the leases expire."""
        for step in (A, "@session"):
            self.ledger.client.zadd(self.ledger.keys.leases(), {f"{self.run_id} {step}": 1})

    def are_renewed(self) -> list[bool]:
        scores: Any = [
            self.ledger.client.zscore(self.ledger.keys.leases(), f"{self.run_id} {step}")
            for step in (A, "@session")
        ]
        return [score is not None and score > 1 for score in scores]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.process.kill()
    made.process.communicate()


def test_overdue_leases_of_pool_process_are_renewed(world: World) -> None:
    world.post()
    before = lease_clock()
    world.renewer.renew_overdue()
    assert world.are_renewed() == [True, True]
    renewed = decode_leases(world.renewed.read(2))
    assert set(renewed) == {(world.run_id, A, world.claim.fence), (world.run_id, *world.session.held)}
    assert all(before + LEASE <= until <= lease_clock() + LEASE for until in renewed.values())


def test_leases_that_the_process_renewed_are_not_renewed_again(world: World) -> None:
    world.post(until=lease_clock() + LEASE)
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]
    assert decode_leases(world.renewed.read(2)) == {}


def test_renewed_lease_is_not_renewed_again_before_it_is_due(world: World) -> None:
    world.post()
    world.renewer.renew_overdue()
    world.expire()
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]


def test_leases_of_dead_process_expire(world: World) -> None:
    world.post()
    world.process.kill()
    world.process.wait(30)
    world.renewer.renew_overdue()
    world.post(pid=os.getppid())  # alive, but not a child of this process
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]


def test_leases_of_zombie_process_expire(world: World) -> None:
    """The process has ended, and its parent has not waited for it yet."""
    world.post()
    world.process.kill()
    os.waitid(os.P_PID, world.process.pid, os.WEXITED | os.WNOWAIT)
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]


@pytest.mark.parametrize("tells", [True, False], ids=["proc", "waitid"])
def test_leases_of_stopped_process_expire(world: World, tmp_path: Path, *, tells: bool) -> None:
    proc = Path("/proc") if tells else tmp_path
    world.renewer._can_execute = lambda pid: child_processes.can_execute(pid, proc)
    world.post()
    os.kill(world.process.pid, signal.SIGSTOP)
    wait_until(lambda: not child_processes.can_execute(world.process.pid, proc), 10)
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]
    os.kill(world.process.pid, signal.SIGCONT)
    wait_until(lambda: child_processes.can_execute(world.process.pid, proc), 10)
    world.renewer.renew_overdue()
    assert world.are_renewed() == [True, True]


def test_lease_of_another_claim_is_not_renewed(world: World) -> None:
    """Another process has the step; the entry is of the earlier claim."""
    world.post(fence=world.claim.fence - 1)
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, True]
    world.expire()
    world.renewer._until.clear()
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, True]


def test_leases_of_blocked_process_expire_after_its_run_was_cancelled(world: World) -> None:
    world.ledger.cancel(world.run_id, "cancelled")
    world.post()
    world.renewer.renew_overdue()  # the answer is stop
    world.expire()
    world.renewer._until.clear()
    world.renewer.renew_overdue()
    assert world.are_renewed() == [False, False]
    world.held.clear(2)  # it ended the step ...
    world.renewer.renew_overdue()
    world.post()  # ... and what it claims next is renewed again
    world.renewer.renew_overdue()
    assert world.are_renewed() == [True, True]


def test_error_of_one_run_does_not_prevent_renewal_of_others(world: World) -> None:
    held = [Lease("20250101T000000-000000000000", A, 1), Lease(world.run_id, A, world.claim.fence)]
    assert world.held.write(0, msgspec.msgpack.encode(HeldLeases(world.process.pid, held)))
    world.ledger.client.set(world.ledger.keys.run("20250101T000000-000000000000"), "no hash")
    world.renewer.renew_overdue()
    assert world.are_renewed() == [True, False]


def test_lease_is_not_counted_as_renewed_without_answer(world: World) -> None:
    def away(*_: Any) -> list[str]:
        raise redis.TimeoutError("away")

    world.post()
    beat_many, world.ledger.beat_many = world.ledger.beat_many, away  # type: ignore[method-assign]
    with pytest.raises(redis.TimeoutError):
        world.renewer.renew_overdue()
    assert decode_leases(world.renewed.read(2)) == {}
    world.ledger.beat_many = beat_many  # type: ignore[method-assign]
    world.renewer.renew_overdue()
    assert world.are_renewed() == [True, True]
