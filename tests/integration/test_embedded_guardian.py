"""The guardian in this process: reports, restarts, logs, shutdown and sweeper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from producer.embedded import guardian as guardian_program
from producer.embedded.guardian import tail
from producer.embedded.server import find_server, server_command
from tests.support.embedded_stack import (
    FOREVER,
    World,
)
from tests.support.waiting import wait_until


def config_for(world: World, folder: Path) -> dict[str, Any]:
    """Configuration of a detached guardian."""
    socket = folder / "redis.sock"
    return {
        "caller": None,
        "folders": [str(folder)],
        "locks": [],
        "socket": str(socket),
        "server": server_command(find_server(world.env), socket, folder),
        "worker": FOREVER,
        "grace": 2.0,
        "idle_if_empty": None,
        "info": {},
        "failure": None,
    }


def run_guardian(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[guardian_program.Guardian], object] = lambda _: None,
    caller: Sequence[str] = FOREVER,
    *,
    detached: bool = False,
    **changes: Any,
) -> list[dict[str, Any]]:
    """Run a guardian in this process' main thread. Returns its reports.

    `act` runs in another thread. Then the process `caller`, whose stdout is the guardian's lifeline, is killed.
    """
    folder = world.base / "s-inside"
    folder.mkdir()
    config = {**config_for(world, folder), "caller": None if detached else os.getppid(), **changes}
    monkeypatch.setattr(guardian_program, "prctl", lambda *_: None)  # pytest must not become a subreaper
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    holder = subprocess.Popen(caller, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    reports, report = os.pipe()
    with monkeypatch.context() as patch:
        patch.setenv("RELAY_TEST_MARK", world.mark)
        guardian = guardian_program.Guardian(config, holder.stdout.fileno(), report)  # type: ignore[arg-type]

        def act_and_end() -> None:
            try:
                act(guardian)
            finally:
                holder.kill()

        thread = threading.Thread(target=act_and_end)
        thread.start()
        try:
            guardian.run()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            thread.join()
            holder.communicate()
            for fd in (report, *guardian.wake):
                os.close(fd)
    with open(reports, "rb") as lines:
        events = [json.loads(line) for line in lines]
    assert not folder.exists()
    return events


in_this_process = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # its forks exec


def running(world: World, *words: str) -> None:
    wait_until(lambda: all(world.named(word) for word in words), 10, f"{words}")


def until_it_ends(guardian: guardian_program.Guardian) -> None:
    wait_until(lambda: guardian.reason, 20, "the end to begin")


@in_this_process
def test_guardian_ends_when_the_callers_pipe_closes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        assert not guardian.reason

    events = run_guardian(world, monkeypatch, act)
    assert [event["event"] for event in events] == ["ready"]
    assert events[0]["info"] == {"pid": os.getpid()}
    world.assert_nothing_left()


@in_this_process
def test_detached_guardian_runs_until_sigterm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        wait_until(lambda: guardian.lifeline is None, 10, "the KEEP line")
        assert not guardian.reason
        os.kill(os.getpid(), signal.SIGTERM)

    writes_keep = [sys.executable, "-c", f"print({guardian_program.KEEP.decode()!r})"]
    events = run_guardian(world, monkeypatch, act, writes_keep, detached=True)
    assert [event["event"] for event in events] == ["ready"]
    world.assert_nothing_left()


@in_this_process
def test_stack_fails_if_the_worker_ends_repeatedly(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guardian_program, "MAX_QUICK_EXITS", 5)
    monkeypatch.setattr(guardian_program, "BACKOFF_SECONDS", (0.0, 0.01, 0.02, 0.03))
    worker = [sys.executable, "-c", "import os; print('tried', flush=True); os.kill(os.getpid(), 9)"]
    failure = tmp_path / "failure"
    events = run_guardian(world, monkeypatch, until_it_ends, worker=worker, failure=str(failure))
    assert [event["event"] for event in events] == ["ready", *["worker_exit"] * 3, "failed"]
    assert events[-1]["how"] == "ended 5 times in a row (signal SIGKILL)"
    assert events[-1]["log"].count("tried") == 5
    assert json.loads(failure.read_text()) == events[-1]
    world.assert_nothing_left()


@in_this_process
def test_stack_fails_if_the_server_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "SERVER_START_SECONDS", 0.3)
    events = run_guardian(world, monkeypatch, until_it_ends, server=FOREVER)
    assert [(event["what"], event["how"]) for event in events] == [("server", "did not answer within 0 s")]
    world.assert_nothing_left()


@in_this_process
def test_stack_fails_if_the_server_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        os.kill(guardian.pids["server"], signal.SIGKILL)
        wait_until(lambda: guardian.reason, 10, "the failure")

    events = run_guardian(world, monkeypatch, act)
    assert [event["event"] for event in events] == ["ready", "failed"]
    assert events[1]["how"] == "ended (signal SIGKILL)"
    world.assert_nothing_left()


@in_this_process
def test_long_logs_are_truncated_with_one_older_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "MAX_LOG_BYTES", 1000)
    log = world.base / "s-inside" / "worker.log"
    talk = "print('x' * 2000, flush=True); import signal; signal.pause()"

    def act(_: guardian_program.Guardian) -> None:
        wait_until(Path(f"{log}.1").exists, 10, "the older copy")
        wait_until(lambda: log.stat().st_size == 0, 10, "the truncation")
        assert Path(f"{log}.1").stat().st_size == 2001

    run_guardian(world, monkeypatch, act, worker=[sys.executable, "-c", talk])
    world.assert_nothing_left()


@in_this_process
def test_worker_that_ignores_sigterm_is_killed_if_idle_or_after_its_grace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = [
        sys.executable,
        "-uc",
        "import signal; signal.signal(15, signal.SIG_IGN); print(1); signal.pause()",
    ]

    def act(guardian: guardian_program.Guardian) -> None:
        wait_until(lambda: tail(guardian.log("worker")), 10, "the worker")

    run_guardian(world, monkeypatch, act, worker=worker, grace=0.2)
    run_guardian(world, monkeypatch, act, worker=worker, grace=60.0, idle_if_empty=["a", "b"])
    world.assert_nothing_left()


def test_sweeper_kills_registered_groups_and_not_removed_ones(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "stack.json").touch()
    doomed, spared = (subprocess.Popen(FOREVER, start_new_session=True) for _ in range(2))
    read_end, write_end = os.pipe()
    os.write(write_end, f"+{spared.pid}\n+{doomed.pid}\n-{spared.pid}\n-1\n".encode())
    os.close(write_end)
    reaper = threading.Thread(target=doomed.wait)
    reaper.start()
    guardian_program.sweep(read_end, [(str(folder), folder.stat())])
    reaper.join(10)
    assert doomed.returncode == -signal.SIGKILL
    assert spared.poll() is None
    assert not folder.exists()
    spared.kill()
    spared.wait()
