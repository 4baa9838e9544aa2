"""Processes that lost a session are killed on the same machine; sessions wait for those of other machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fakeredis
import msgspec
import pytest

from workers.contract.keys import Keys
from workers.sessions import stale_lock_holders
from workers.sessions.stale_lock_holders import Holder, StaleLockHolders, this_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file locks are looked up as Linux has them")

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True);"
    "sys.stdin.read()"
)
StaleLockHolder = Callable[..., Holder]


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A stopped process that holds ``w.duckdb``."""
    (tmp_path / "w.duckdb").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "w.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


@pytest.fixture
def stray(client: fakeredis.FakeRedis, process: subprocess.Popen[bytes], tmp_path: Path) -> StaleLockHolder:
    """Records the process, or something like it, as one that lost a session."""

    def record(**changes: object) -> Holder:
        plain = msgspec.json.decode(this_process(f"duckdb:{tmp_path / 'w.duckdb'}", "here:1"))
        plain |= {"pid": process.pid, "started": stale_lock_holders._started(process.pid), **changes}
        client.hset(Keys("t").strays(), msgspec.json.encode(plain), 1)
        return msgspec.convert(plain, Holder)

    return record


def known(client: fakeredis.FakeRedis) -> int:
    return int(client.hlen(Keys("t").strays()))


def test_a_stopped_process_that_holds_the_file_is_killed(
    client: fakeredis.FakeRedis, process: subprocess.Popen[bytes], stray: StaleLockHolder
) -> None:
    assert stale_lock_holders.holds(stray())
    assert StaleLockHolders(client, Keys("t")).end() == []
    assert process.wait(10) == -signal.SIGKILL
    assert known(client) == 0


def test_a_stopped_process_is_killed_without_pidfds(
    client: fakeredis.FakeRedis,
    process: subprocess.Popen[bytes],
    stray: StaleLockHolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    stray()
    assert StaleLockHolders(client, Keys("t")).end() == []
    assert process.wait(10) == -signal.SIGKILL


def test_a_process_that_got_the_same_pid_later_is_not_killed(
    client: fakeredis.FakeRedis, process: subprocess.Popen[bytes], stray: StaleLockHolder
) -> None:
    stray(started="17")
    assert StaleLockHolders(client, Keys("t")).end() == []
    assert process.poll() is None
    assert known(client) == 0


def test_a_process_that_released_the_file_is_not_killed(
    client: fakeredis.FakeRedis, process: subprocess.Popen[bytes], stray: StaleLockHolder, tmp_path: Path
) -> None:
    (tmp_path / "other.duckdb").touch()
    stray(warehouse=f"duckdb:{tmp_path / 'other.duckdb'}")
    stray(warehouse=f"duckdb:{tmp_path / 'never.duckdb'}")
    assert StaleLockHolders(client, Keys("t")).end() == []
    assert process.poll() is None
    assert known(client) == 0


def test_a_holder_on_another_machine_is_returned(
    client: fakeredis.FakeRedis, process: subprocess.Popen[bytes], stray: StaleLockHolder
) -> None:
    elsewhere = stray(place="elsewhere", pid=1)
    assert StaleLockHolders(client, Keys("t")).end(elsewhere.warehouse) == [elsewhere]
    assert StaleLockHolders(client, Keys("t")).end("duckdb:/other") == []
    process.kill()
    process.wait(10)
    assert StaleLockHolders(client, Keys("t")).end(elsewhere.warehouse) == []
    assert known(client) == 1  # it says itself that it left, or it is forgotten after a day


def test_a_holder_that_may_not_be_killed_is_returned(
    client: fakeredis.FakeRedis, stray: StaleLockHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Holder) -> bool:
        raise PermissionError

    monkeypatch.setattr(stale_lock_holders, "_kill", refuse)
    other = stray()
    assert StaleLockHolders(client, Keys("t")).end() == [other]


def test_locks_of_a_file_that_is_open_here_are_not_checked(
    stray: StaleLockHolder, process: subprocess.Popen[bytes]
) -> None:
    holder = stray()
    with open(holder.path, "rb"):
        assert stale_lock_holders.holds(holder) is False
    assert stale_lock_holders.holds(holder) is True
