"""The embedded stack with real processes: it ends with its caller and leaves no process or folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from producer.embedded.guardian import tail
from producer.embedded.stack import StackInfo
from tests.support.embedded_stack import (
    STAND_IN,
    World,
    alive,
    client,
    send_task,
    start_busy,
)
from tests.support.waiting import wait_until
from workers.contract.errors import BrokerUnavailableError, NoWorkerError, RelayError

# the caller's end


@pytest.mark.parametrize(("mode", "code"), [("return", 0), ("raise", 1), ("thread", 3)])
def test_nothing_is_left_when_the_caller_has_exited(world: World, mode: str, code: int) -> None:
    caller, _ = world.call(mode)
    assert len(world.processes()) == 7  # caller, guardian, sweeper, server, worker, two pool processes
    caller.communicate(b"\n", timeout=30)
    assert caller.returncode == code
    world.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_after_a_signal_to_the_caller(world: World, number: signal.Signals) -> None:
    caller, _ = world.call("wait")
    os.killpg(caller.pid, number)  # as a terminal does: to its whole process group
    caller.wait(30)
    world.assert_nothing_left(10)


def test_nothing_is_left_after_os_exit_of_the_caller(world: World) -> None:
    caller, _ = world.call("os_exit")
    caller.communicate(b"\n", timeout=30)
    assert caller.returncode == 4
    world.assert_nothing_left(10)


@pytest.mark.parametrize("mode", ["hold", "hold-unseen"])
def test_stack_ends_with_a_killed_caller_although_its_fork_runs(world: World, mode: str) -> None:
    caller, facts = world.call(mode)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    wait_until(lambda: not Path(facts["dir"]).exists(), 10, "the end of the stack")
    holders = world.named("support_embedded_caller")
    assert len(holders) == 1  # only the fork is left
    holders[0].kill()
    world.assert_nothing_left(5)


def test_multiprocessing_child_has_its_own_stack(world: World) -> None:
    caller, child = world.call("fork")
    assert caller.stdout is not None
    parent = json.loads(caller.stdout.readline())
    assert child["child"] != parent["dir"]
    wait_until(lambda: not Path(child["child"]).exists(), 10, "the end of the child's stack")
    with client(parent["redis_url"]) as server:
        assert server.ping()  # although the child called `stop`
    caller.communicate(b"\n", timeout=30)
    world.assert_nothing_left()


def test_two_callers_have_separate_stacks(world: World) -> None:
    (first, one), (second, two) = world.call("return"), world.call("return")
    assert one["dir"] != two["dir"]
    first.communicate(b"\n", timeout=30)
    with client(two["redis_url"]) as server:
        assert server.ping()
    second.communicate(b"\n", timeout=30)
    world.assert_nothing_left()


def test_ctrl_c_reaches_only_the_caller(world: World) -> None:
    with world.stack() as stack:
        for pid in (
            stack.start().pid,
            world.one("valkey-server").pid,
            world.one("signal.pause").pid,
        ):
            assert os.getsid(pid) == pid  # its own session: no terminal, and not the caller's process group


# killed guardians


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_stack_ends_with_a_killed_guardian_even_busy_pool_processes(world: World) -> None:
    stack = world.stack(workers=2, command=STAND_IN)
    busy = start_busy(stack)
    os.kill(stack.start().pid, signal.SIGKILL)
    world.assert_nothing_left(5)
    assert not alive(busy)

    def failure() -> str:
        try:
            stack.check()
        except BrokerUnavailableError as error:
            return str(error)
        return ""

    # A dying process loses its environment, by which this test finds it, before its pipes.
    wait_until(lambda: "ended from outside" in failure(), 5, "the reported end of the guardian")
    stack.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_kernel_ends_the_stack_without_guardian_and_sweeper_and_next_start_cleans_up(world: World) -> None:
    stack = world.stack(workers=2, command=STAND_IN)
    info = stack.start()
    stack.wait_ready(60)
    for process in world.named("embedded/guardian"):
        process.kill()
    wait_until(lambda: not world.processes(), 5, "the end of server, worker and pool processes")
    assert info.runtime_dir.exists()
    with world.stack() as other:
        assert list(world.base.iterdir()) == [other.start().runtime_dir]
    stack.stop()


def test_stop_works_without_the_sweeper(world: World) -> None:
    stack = world.stack()
    guardian = stack.start().pid
    sweeper = next(process for process in world.named("embedded/guardian") if process.pid != guardian)
    sweeper.kill()
    stack.stop()
    world.assert_nothing_left()


def test_stop_kills_a_hanging_guardian(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = world.stack()
    os.kill(stack.start().pid, signal.SIGSTOP)
    assert stack._handle is not None
    stack._handle.shutdown_seconds = 0.2
    stack.stop()
    world.assert_nothing_left()


# stopping


def test_busy_worker_is_killed_after_the_stop_seconds(world: World) -> None:
    world.env["DBT_RELAY_STOP_SECONDS"] = "1"
    stack = world.stack(workers=2, command=STAND_IN)
    busy = start_busy(stack)
    started = time.monotonic()
    stack.stop()
    assert time.monotonic() - started >= 1.0
    assert not alive(busy)
    world.assert_nothing_left()


@pytest.mark.parametrize(("key", "needs", "finishes"), [("relay:leases", 2, True), ("unrelated", 60, False)])
def test_only_a_worker_with_running_steps_gets_grace(
    world: World, key: str, needs: int, finishes: bool
) -> None:
    ready, finished = (world.base.parent / f"{world.base.name}-{word}" for word in ("ready", "finished"))
    stubborn = (
        f"import signal, time\ndef end(*_): time.sleep({needs}); open({str(finished)!r}, 'w').close(); exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
    )
    code = f"{stubborn}open({str(ready)!r}, 'w').close(); signal.pause()"
    stack = world.stack(command=[sys.executable, "-c", code])
    info = stack.start()
    wait_until(ready.exists, 10, "the worker")
    ready.unlink()
    with client(info.redis_url) as server:
        server.zadd(key, {"run step": 1})
    stack.stop()
    assert finished.exists() is finishes
    finished.unlink(missing_ok=True)
    world.assert_nothing_left()


def test_start_and_stop_are_idempotent_and_thread_safe(world: World) -> None:
    stack = world.stack()
    seen: list[StackInfo] = []
    threads = [threading.Thread(target=lambda: seen.append(stack.start())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert len(world.named("valkey-server")) == 1
    stack.stop()
    stack.stop()
    world.assert_nothing_left()


# environment of workers


def test_worker_has_the_callers_environment_and_finds_the_stack(world: World) -> None:
    world.env.update(MY_VAR="mine", CELERY_BROKER_URL="redis://elsewhere", BROKER_URL="redis://elsewhere")
    with world.stack(workers=2, command=STAND_IN) as stack:
        info = stack.start()
        stack.wait_ready(60)
        names = (
            "MY_VAR",
            "DBT_RELAY_BROKER_URL",
            "DBT_RELAY_EMBEDDED",
            "DBT_RELAY_RUNTIME_DIR",
            "BROKER_URL",
        )
        facts = send_task(info.redis_url, info.broker_url, "facts", *names).get(timeout=20)
    assert facts["cwd"] == str(info.runtime_dir)
    assert facts["env"] == {
        "MY_VAR": "mine",
        "DBT_RELAY_BROKER_URL": info.broker_url,
        "DBT_RELAY_EMBEDDED": "1",
        "DBT_RELAY_RUNTIME_DIR": str(info.runtime_dir),
        "BROKER_URL": None,
    }


@pytest.mark.parametrize("name", ["with space and % and ü", "deep/" * 40 + "base"], ids=["odd", "long"])
def test_runtime_folder_with_special_characters_or_a_long_path(world: World, name: str) -> None:
    world.env["DBT_RELAY_RUNTIME_DIR"] = str(world.base / name)
    world.env["TMPDIR"] = str(world.base)  # where the socket of the long one goes
    with world.stack(workers=2, command=STAND_IN) as stack:
        info = stack.start()
        stack.wait_ready(60)
        assert info.runtime_dir.is_relative_to(world.base / name)
        assert send_task(info.redis_url, info.broker_url, "facts").get(timeout=20)["pid"]
        with client(info.redis_url) as server:
            assert server.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert server.config_get("save")["save"] == ""
            assert server.config_get("port")["port"] == "0"
    assert not world.processes()
    assert not list((world.base / name).iterdir())
    subprocess.run(["rm", "-rf", *map(str, world.base.iterdir())], check=True)


def test_files_are_private_to_the_user(world: World) -> None:
    with world.stack() as stack:
        info = stack.start()
        assert info.runtime_dir.stat().st_mode & 0o777 == 0o700
        assert Path(info.socket).stat().st_mode & 0o077 == 0


# failures


def test_server_that_ends_at_once_is_an_error_with_its_log(world: World, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\necho 'no memory for me' >&2\nexit 7\n")
    server.chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    with pytest.raises(
        BrokerUnavailableError, match=r"(?s)exit code 7.*no memory for me.*DBT_RELAY_BROKER_URL"
    ):
        world.stack().start()
    world.assert_nothing_left()


def test_server_that_cannot_be_executed_is_an_error(world: World, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/no/such/interpreter\n")
    server.chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    with pytest.raises(BrokerUnavailableError, match=r"cannot start .*valkey-server"):
        world.stack().start()
    world.assert_nothing_left()


def test_lost_server_is_an_error_and_next_start_makes_a_new_stack(world: World) -> None:
    stack = world.stack()
    first = stack.start()
    stack.check()
    world.one("valkey-server").kill()

    def failed() -> bool:
        try:
            stack.check()
        except BrokerUnavailableError as error:
            return "server ended (signal SIGKILL)" in str(error)
        return False

    wait_until(failed, 10, "the failure")
    world.assert_nothing_left(5)
    assert stack.start().runtime_dir != first.runtime_dir
    stack.check()
    stack.stop()
    world.assert_nothing_left()


def test_worker_that_cannot_start_is_an_error_with_its_log_and_what_to_install(world: World) -> None:
    code = "import sys; sys.exit(\"ModuleNotFoundError: No module named 'dbt'\")"
    with (
        world.stack(command=[sys.executable, "-c", code]) as stack,
        pytest.raises(
            NoWorkerError, match=r"(?s)before it could take work.*'dbt'.*pip install 'dbt-relay\[worker\]'"
        ),
    ):
        stack.wait_ready(30)
    world.assert_nothing_left()


def test_worker_that_does_not_register_in_time_is_an_error(world: World) -> None:
    command = [sys.executable, "-uc", "import signal; print('still importing'); signal.pause()"]
    with world.stack(command=command) as stack:
        log = stack.start().runtime_dir / "worker.log"
        wait_until(lambda: tail(str(log)), 10, "the worker")
        with pytest.raises(NoWorkerError, match=r"(?s)after 0\.\d* s.*still importing.*worker\.log"):
            stack.wait_ready(0.25)
    world.assert_nothing_left()


def test_killed_worker_is_restarted_and_its_old_pool_killed(world: World) -> None:
    with world.stack(workers=2, command=STAND_IN) as stack:
        busy = start_busy(stack)
        info = stack.start()
        with client(info.redis_url) as server:
            (name,) = server.hkeys("relay:workers")
            os.kill(int(name.split(":")[1]), signal.SIGKILL)
            wait_until(lambda: server.hlen("relay:workers") == 2, 20, "another worker")
        assert not alive(busy)  # a busy pool process does not notice the loss of its parent
        stack.check()
    world.assert_nothing_left()


@pytest.mark.parametrize("replaced", [False, True])
def test_stack_ends_when_its_folder_is_removed(world: World, replaced: bool) -> None:
    stack = world.stack()
    folder = stack.start().runtime_dir
    folder.rename(folder.with_name("away"))
    if replaced:
        folder.mkdir()
    wait_until(lambda: not world.named(str(folder)), 20, "the end of the server")
    with pytest.raises(RelayError, match="runtime folder was removed or replaced") as caught:
        stack.check()
    assert caught.value.info is not None
    assert (caught.value.info.code, "DBT_RELAY_RUNTIME_DIR" in str(caught.value)) == (
        "runtime_dir_gone",
        True,
    )
    assert folder.exists() == replaced  # it belongs to another stack
    stack.stop()
