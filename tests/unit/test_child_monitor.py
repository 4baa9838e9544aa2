"""Detection of dead pool processes, and the errors of their nodes."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from workers.ledger.records import Death
from workers.supervision import memory
from workers.supervision.child_monitor import ChildMonitor

GB = 2**30


class Ledger:
    """Returns one requeued step for each dead process."""

    def __init__(self) -> None:
        self.buried: list[tuple[str, Death]] = []
        self.errors: list[Exception] = []

    def bury(self, owner: str, death: Death) -> list[tuple[str, str, tuple[str, ...]]]:
        if self.errors:
            raise self.errors.pop()
        self.buried.append((owner, death))
        return [("run", "model.p.a", ("model.p.a",))]


def monitor_of(ledger: Ledger, processes: list[Any], sent: list[Any]) -> ChildMonitor:
    def publish(run_id: str, steps: Sequence[str]) -> None:
        sent.append((run_id, tuple(steps)))

    made: Any = ChildMonitor(ledger, publish, lambda: processes)  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def test_steps_of_dead_process_are_requeued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak", lambda pid: pid * GB)
    kills = iter((3, 3, 4, 4))
    monkeypatch.setattr(memory, "kills", lambda: next(kills))
    ledger, sent = Ledger(), []  # type: ignore[var-annotated]
    processes = [SimpleNamespace(pid=7, exitcode=None), SimpleNamespace(pid=8, exitcode=None)]
    monitor = monitor_of(ledger, processes, sent)
    monitor.check()
    assert ledger.buried == []
    processes.pop(0).exitcode = -9  # the pool no longer lists it
    monitor.check()
    monitor.check()
    [(owner, death)] = ledger.buried
    assert owner == f"{socket.gethostname()}:7"
    assert (death.code, death.reason, death.peak, death.oom) == (-9, "SIGKILL", 7 * GB, True)
    assert death.limit >= GB // 4
    assert sent == [("run", ("model.p.a",))]


def test_a_death_is_reported_when_redis_is_back() -> None:
    ledger, sent = Ledger(), []  # type: ignore[var-annotated]
    ledger.errors = [redis.ConnectionError("away")]
    processes = [SimpleNamespace(pid=7, exitcode=3)]
    monitor = monitor_of(ledger, processes, sent)
    with pytest.raises(redis.ConnectionError):
        monitor.check()
    processes.clear()
    assert ledger.buried == []
    monitor.check()
    assert {death.reason for _, death in ledger.buried} == {"exit status 3"}


def test_memory_is_read_from_proc_and_cgroups(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "7").mkdir()
    (proc / "7" / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert memory.peak(7, proc) == 2 * 2**20
    assert memory.peak(8, proc) == 0
    (proc / "vmstat").write_text("pgfault 9\noom_kill 5\n")
    assert memory.kills(proc) == 5
    machine = memory.limit(tmp_path, groups)
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.kills(tmp_path) == 0
    (proc / "self" / "cgroup").write_text("5:cpu:/a\n4:memory:/a/b\n0::/c/d\n")
    (groups / "memory" / "a" / "b").mkdir(parents=True)
    (groups / "memory" / "a" / "b" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert memory.limit(proc, groups) == machine
    (groups / "memory" / "a" / "memory.limit_in_bytes").write_text("300000000\n")
    assert memory.limit(proc, groups) == 300_000_000
    (groups / "c" / "d").mkdir(parents=True)
    (groups / "c" / "d" / "memory.max").write_text("max\n")
    (groups / "c" / "memory.max").write_text("200000000\n")
    assert memory.limit(proc, groups) == 200_000_000
