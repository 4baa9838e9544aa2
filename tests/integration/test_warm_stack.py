"""The warm stack with real processes: start, state, failures and stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from producer.embedded.guardian import tail
from producer.embedded.stack import down, find_running, status, up
from tests.support.embedded_stack import (
    CALLER,
    FOREVER,
    World,
)
from tests.support.waiting import wait_until
from workers.contract.errors import RelayError


def test_stack_outlives_the_caller_of_up_and_down_ends_it(world: World) -> None:
    caller, facts = world.call("up")
    caller.communicate(timeout=30)
    assert caller.returncode == 0
    info = find_running(world.env)
    assert info is not None
    assert info.pid == facts["pid"]
    assert up(5, environ=world.env, wait_ready=5) == info  # idempotent
    state = status(world.env)
    assert state.info == info
    assert len(state.ready) == 1
    assert (state.queued, state.active, state.failure) == (0, 0, "")
    assert psutil.Process(info.pid).ppid() != os.getpid()
    assert down(environ=world.env)
    world.assert_nothing_left()
    assert not down(environ=world.env)
    assert status(world.env).info is None


def test_concurrent_calls_of_up_start_one_stack(world: World) -> None:
    code = f"from producer.embedded.stack import up; print(up(1, command={FOREVER!r}).pid)"
    callers = [
        subprocess.Popen([sys.executable, "-c", code], env=world.env, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    pids = {caller.communicate(timeout=60)[0] for caller in callers}
    assert len(pids) == 1
    assert len(world.named("valkey-server")) == 1
    assert down(environ=world.env)
    world.assert_nothing_left()


def test_up_works_after_all_processes_were_killed(world: World) -> None:
    first = up(1, environ=world.env, command=FOREVER)
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), 5, "the end")
    assert (first.runtime_dir / "stack.json").exists()
    assert find_running(world.env) is None
    assert not (first.runtime_dir / "stack.json").exists()
    second = up(1, environ=world.env, command=FOREVER)
    assert second.pid != first.pid
    assert find_running(world.env) == second
    assert down(environ=world.env)
    world.assert_nothing_left()


def test_down_removes_files_after_all_processes_were_killed(world: World) -> None:
    info = up(1, environ=world.env, command=FOREVER)
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), 5, "the end")
    assert info.runtime_dir.exists()
    assert not down(environ=world.env)
    world.assert_nothing_left()


def test_down_kills_a_stack_that_does_not_end(world: World) -> None:
    stubborn = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
    world.env["DBT_RELAY_STOP_SECONDS"] = "60"
    up(1, environ=world.env, command=stubborn)
    started = time.monotonic()
    assert down(0.3, environ=world.env)
    assert time.monotonic() - started < 60
    world.assert_nothing_left()


def test_second_sigterm_ends_the_stack_without_grace(world: World) -> None:
    world.env["DBT_RELAY_STOP_SECONDS"] = "60"
    ignoring = [
        sys.executable,
        "-uc",
        "import signal; signal.signal(15, signal.SIG_IGN); print(1); signal.pause()",
    ]
    info = up(1, environ=world.env, command=ignoring)
    wait_until(lambda: tail(str(info.runtime_dir / "worker.log")), 10, "the worker")
    os.kill(info.pid, signal.SIGTERM)
    wait_until(lambda: find_running(world.env) is None, 5, "the end to begin")
    os.kill(info.pid, signal.SIGTERM)
    world.assert_nothing_left(5)


def test_killed_caller_of_up_leaves_nothing(world: World, tmp_path: Path) -> None:
    """The caller is killed after the server's start, before it has detached the stack."""
    (tmp_path / "valkey-server").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "valkey-server").chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    caller = subprocess.Popen([sys.executable, str(CALLER), "up"], env=world.env)
    wait_until(lambda: world.named("sleep"), 10, "the server")
    caller.kill()
    caller.wait()
    world.assert_nothing_left(5)


def test_status_has_the_failure_of_the_last_stack_until_the_next_up(world: World) -> None:
    up(1, environ=world.env, command=FOREVER)
    world.one("valkey-server").kill()
    wait_until(lambda: not world.processes(), 10, "the end")
    state = status(world.env)
    assert state.info is None
    assert "server ended (signal SIGKILL)" in state.failure
    up(1, environ=world.env, command=FOREVER)
    assert status(world.env).failure == ""
    assert down(environ=world.env)
    world.assert_nothing_left()


def test_up_and_down_time_out_if_another_process_has_the_lock(world: World) -> None:
    from producer.embedded import runtime_dirs

    locked = runtime_dirs.claim_warm_dir(world.env)
    assert locked is not None
    for attempt in (lambda: up(environ=world.env, timeout=0.1), lambda: down(-8.0, environ=world.env)):
        with pytest.raises(RelayError, match=r"(?s)starting or stopping the warm stack.*embedded/guardian"):
            attempt()
    locked.discard()


def test_find_running_imports_neither_redis_nor_celery(world: World) -> None:
    up(1, environ=world.env, command=FOREVER)
    code = (
        "import sys; from producer.embedded.warm_stack import find_running; assert find_running()\n"
        "assert not {'redis', 'celery', 'kombu', 'msgspec', 'dbt'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env=world.env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert down(environ=world.env)
