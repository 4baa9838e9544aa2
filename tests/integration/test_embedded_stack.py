"""The embedded stack with real processes: whatever ends it, nothing is left running or on disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from producer.embedded import guardian as guardian_program
from producer.embedded.guardian import tail
from producer.embedded.server import find_server, server_command
from producer.embedded.stack import EmbeddedStack, StackInfo, down, find_running, status, up, worker_command
from tests.support.processes import short_directory
from tests.support.waiting import wait_until
from workers.contract.errors import BrokerUnavailableError, NoWorkerError, RelayError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CALLER = HERE / "support_embedded_caller.py"
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
STAND_IN = [word.replace("workers.app", "support_embedded_app") for word in worker_command(2)]


class World:
    """An environment of the test's own, by which its processes are known whoever started them."""

    def __init__(self) -> None:
        self.base = short_directory("relay-emb-")
        self.mark = uuid.uuid4().hex
        self.env = {
            **os.environ,
            "DBT_RELAY_RUNTIME_DIR": str(self.base),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
            "RELAY_TEST_MARK": self.mark,
        }
        self.callers: list[subprocess.Popen[bytes]] = []

    def processes(self) -> list[psutil.Process]:
        """Every process alive that belongs here."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            # The server writes its title over its environment; the title names its socket.
            ours = process.environ().get("RELAY_TEST_MARK") == self.mark or str(self.base) in str(
                process.cmdline()
            )
            return ours and process.pid != os.getpid()
        return False

    def named(self, word: str) -> list[psutil.Process]:
        """Those with `word` in their command line."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it may be ending
                found += [process] if word in " ".join(process.cmdline()) else []
        return found

    def one(self, word: str) -> psutil.Process:
        """The first of those, waited for: a child has its command line only some time after its fork."""
        wait_until(lambda: self.named(word), 30, word)
        return self.named(word)[0]

    def assert_nothing_left(self, within: float = 0.0) -> None:
        """No process and no folder of a stack after `within` seconds."""

        def left() -> str:
            folders = [path.name for path in self.base.iterdir()]
            return f"{[(p.pid, p.cmdline()) for p in self.processes()]} {folders}"

        wait_until(
            lambda: not self.processes() and not list(self.base.iterdir()),
            within,
            lambda: f"the end of {left()}",
        )

    def call(self, mode: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """Start the caller program; returns when it has said its facts."""
        process = subprocess.Popen(
            [sys.executable, str(CALLER), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            start_new_session=True,
        )
        self.callers.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1].decode()
        return process, json.loads(line)

    def stack(self, **options: Any) -> EmbeddedStack:
        """A stack of this process."""
        return EmbeddedStack(environ=self.env, **{"workers": 1, "command": FOREVER, **options})

    def close(self) -> None:
        """End what a failed test left."""
        for left in self.processes():  # first: a fork of a caller would keep its pipes open
            left.kill()
        for process in self.callers:
            process.kill()
            process.communicate()
        for path in self.base.iterdir():
            subprocess.run(["rm", "-rf", str(path)], check=True)
        self.base.rmdir()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def send_task(info_url: str, broker_url: str, name: str, *args: object) -> Any:
    """Have the stand-in worker execute a task; returns its AsyncResult."""
    from celery import Celery

    app = Celery(broker=broker_url, backend=broker_url)
    return app.send_task(f"support_embedded_app.{name}", args, queue="dbt-relay")


def start_busy(stack: EmbeddedStack) -> int:
    """Occupy one pool process with work that notices nothing; returns its pid."""
    info = stack.start()
    stack.wait_ready(60)
    send_task(info.redis_url, info.broker_url, "busy", 60)
    with client(info.redis_url) as server:
        return int(wait_until(lambda: server.get("busy"), 20, "a busy pool process"))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# the caller's end


@pytest.mark.parametrize(("mode", "code"), [("return", 0), ("raise", 1), ("thread", 3)])
def test_orderly_exit_of_the_caller_leaves_nothing_the_moment_it_is_gone(
    world: World, mode: str, code: int
) -> None:
    caller, _ = world.call(mode)
    assert len(world.processes()) == 7  # caller, guardian, sweeper, server, worker, two pool processes
    caller.communicate(b"\n", timeout=30)
    assert caller.returncode == code
    world.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signal_to_the_caller_leaves_nothing(world: World, number: signal.Signals) -> None:
    caller, _ = world.call("wait")
    os.killpg(caller.pid, number)  # as a terminal does: to its whole process group
    caller.wait(30)
    world.assert_nothing_left(10)


def test_os_exit_of_the_caller_leaves_nothing(world: World) -> None:
    caller, _ = world.call("os_exit")
    caller.communicate(b"\n", timeout=30)
    assert caller.returncode == 4
    world.assert_nothing_left(10)


@pytest.mark.parametrize("mode", ["hold", "hold-unseen"])
def test_killed_caller_whose_fork_lives_on_leaves_nothing(world: World, mode: str) -> None:
    caller, facts = world.call(mode)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    wait_until(lambda: not Path(facts["dir"]).exists(), 10, "the end of the stack")
    holders = world.named("support_embedded_caller")
    assert len(holders) == 1  # the fork is all that is left
    holders[0].kill()
    world.assert_nothing_left(5)


def test_multiprocessing_child_has_a_stack_of_its_own(world: World) -> None:
    caller, child = world.call("fork")
    assert caller.stdout is not None
    parent = json.loads(caller.stdout.readline())
    assert child["child"] != parent["dir"]
    wait_until(lambda: not Path(child["child"]).exists(), 10, "the end of the child's stack")
    with client(parent["redis_url"]) as server:
        assert server.ping()  # though the child stopped its copy
    caller.communicate(b"\n", timeout=30)
    world.assert_nothing_left()


def test_two_callers_at_once_have_a_stack_each(world: World) -> None:
    (first, one), (second, two) = world.call("return"), world.call("return")
    assert one["dir"] != two["dir"]
    first.communicate(b"\n", timeout=30)
    with client(two["redis_url"]) as server:
        assert server.ping()
    second.communicate(b"\n", timeout=30)
    world.assert_nothing_left()


def test_ctrl_c_reaches_the_caller_alone(world: World) -> None:
    with world.stack() as stack:
        for pid in (
            stack.start().pid,
            world.one("valkey-server").pid,
            world.one("signal.pause").pid,
        ):
            assert os.getsid(pid) == pid  # no terminal, and no process group of the caller


# killed guardians


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_killed_guardian_takes_everything_with_it_even_busy_pool_processes(world: World) -> None:
    stack = world.stack(workers=2, command=STAND_IN)
    busy = start_busy(stack)
    os.kill(stack.start().pid, signal.SIGKILL)
    world.assert_nothing_left(5)
    assert not alive(busy)

    def said() -> str:
        try:
            stack.check()
        except BrokerUnavailableError as error:
            return str(error)
        return ""

    # A dying process gives up its environment, by which it is found here, before its pipes.
    wait_until(lambda: "ended from outside" in said(), 5, "the end of the guardian to be heard of")
    stack.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_without_guardian_and_sweeper_the_kernel_ends_it_and_the_next_start_cleans_up(world: World) -> None:
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


def test_killed_sweeper_is_not_needed_for_an_orderly_end(world: World) -> None:
    stack = world.stack()
    guardian = stack.start().pid
    sweeper = next(process for process in world.named("embedded/guardian") if process.pid != guardian)
    sweeper.kill()
    stack.stop()
    world.assert_nothing_left()


def test_guardian_that_hangs_is_killed_by_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = world.stack()
    os.kill(stack.start().pid, signal.SIGSTOP)
    assert stack._handle is not None
    stack._handle.shutdown_seconds = 0.2
    stack.stop()
    world.assert_nothing_left()


# stopping


def test_busy_worker_gets_its_seconds_and_is_killed_then(world: World) -> None:
    world.env["DBT_RELAY_STOP_SECONDS"] = "1"
    stack = world.stack(workers=2, command=STAND_IN)
    busy = start_busy(stack)
    started = time.monotonic()
    stack.stop()
    assert time.monotonic() - started >= 1.0
    assert not alive(busy)
    world.assert_nothing_left()


@pytest.mark.parametrize(("key", "needs", "finishes"), [("relay:leases", 2, True), ("unrelated", 60, False)])
def test_only_a_worker_that_executes_something_is_waited_for(
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


def test_start_and_stop_are_idempotent_and_one_for_all_threads(world: World) -> None:
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


# what workers get


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
def test_runtime_folder_may_be_odd_or_long(world: World, name: str) -> None:
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


def test_everything_on_disk_is_the_users_alone(world: World) -> None:
    with world.stack() as stack:
        info = stack.start()
        assert info.runtime_dir.stat().st_mode & 0o777 == 0o700
        assert Path(info.socket).stat().st_mode & 0o077 == 0


# what breaks


def test_server_that_ends_at_once_is_an_error_with_its_own_words(world: World, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\necho 'no memory for me' >&2\nexit 7\n")
    server.chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    with pytest.raises(
        BrokerUnavailableError, match=r"(?s)exit code 7.*no memory for me.*DBT_RELAY_BROKER_URL"
    ):
        world.stack().start()
    world.assert_nothing_left()


def test_server_that_cannot_be_executed_is_a_clear_error(world: World, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/no/such/interpreter\n")
    server.chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    with pytest.raises(BrokerUnavailableError, match=r"cannot start .*valkey-server"):
        world.stack().start()
    world.assert_nothing_left()


def test_lost_server_is_told_and_the_next_start_is_a_new_stack(world: World) -> None:
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


def test_silent_worker_is_an_error_when_the_time_is_over(world: World) -> None:
    command = [sys.executable, "-uc", "import signal; print('still importing'); signal.pause()"]
    with world.stack(command=command) as stack:
        log = stack.start().runtime_dir / "worker.log"
        wait_until(lambda: tail(str(log)), 10, "the worker")
        with pytest.raises(NoWorkerError, match=r"(?s)after 0\.\d* s.*still importing.*worker\.log"):
            stack.wait_ready(0.25)
    world.assert_nothing_left()


def test_killed_worker_is_started_again_without_its_old_pool(world: World) -> None:
    with world.stack(workers=2, command=STAND_IN) as stack:
        busy = start_busy(stack)
        info = stack.start()
        with client(info.redis_url) as server:
            (name,) = server.hkeys("relay:workers")
            os.kill(int(name.split(":")[1]), signal.SIGKILL)
            wait_until(lambda: server.hlen("relay:workers") == 2, 20, "another worker")
        assert not alive(busy)  # a pool process that is busy does not notice by itself
        stack.check()
    world.assert_nothing_left()


# the warm stack


def test_up_outlives_its_caller_and_down_ends_it(world: World) -> None:
    caller, facts = world.call("up")
    caller.communicate(timeout=30)
    assert caller.returncode == 0
    info = find_running(world.env)
    assert info is not None
    assert info.pid == facts["pid"]
    assert up(5, environ=world.env, wait_ready=5) == info  # idempotent
    told = status(world.env)
    assert told.info == info
    assert len(told.ready) == 1
    assert (told.queued, told.active, told.failure) == (0, 0, "")
    assert psutil.Process(info.pid).ppid() != os.getpid()
    assert down(environ=world.env)
    world.assert_nothing_left()
    assert not down(environ=world.env)
    assert status(world.env).info is None


def test_many_ups_at_once_make_one_stack(world: World) -> None:
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


def test_after_kill_of_everything_the_state_is_stale_and_up_works_again(world: World) -> None:
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


def test_down_after_kill_of_everything_only_tidies(world: World) -> None:
    info = up(1, environ=world.env, command=FOREVER)
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), 5, "the end")
    assert info.runtime_dir.exists()
    assert not down(environ=world.env)
    world.assert_nothing_left()


def test_down_kills_what_does_not_end(world: World) -> None:
    stubborn = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
    world.env["DBT_RELAY_STOP_SECONDS"] = "60"
    up(1, environ=world.env, command=stubborn)
    started = time.monotonic()
    assert down(0.3, environ=world.env)
    assert time.monotonic() - started < 60
    world.assert_nothing_left()


def test_second_sigterm_ends_the_patience(world: World) -> None:
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


def test_interrupted_up_leaves_nothing(world: World, tmp_path: Path) -> None:
    """The caller dies between the server's start and its word that the stack may go on."""
    (tmp_path / "valkey-server").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "valkey-server").chmod(0o755)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    caller = subprocess.Popen([sys.executable, str(CALLER), "up"], env=world.env)
    wait_until(lambda: world.named("sleep"), 10, "the server")
    caller.kill()
    caller.wait()
    world.assert_nothing_left(5)


def test_status_tells_why_the_last_warm_stack_failed_until_the_next(world: World) -> None:
    up(1, environ=world.env, command=FOREVER)
    world.one("valkey-server").kill()
    wait_until(lambda: not world.processes(), 10, "the end")
    told = status(world.env)
    assert told.info is None
    assert "server ended (signal SIGKILL)" in told.failure
    up(1, environ=world.env, command=FOREVER)
    assert status(world.env).failure == ""
    assert down(environ=world.env)
    world.assert_nothing_left()


def test_up_gives_up_on_a_folder_that_somebody_else_holds(world: World) -> None:
    from producer.embedded import runtime_dirs

    held = runtime_dirs.claim_warm_dir(world.env)
    assert held is not None
    for attempt in (lambda: up(environ=world.env, timeout=0.1), lambda: down(-8.0, environ=world.env)):
        with pytest.raises(RelayError, match=r"(?s)starting or stopping the warm stack.*embedded/guardian"):
            attempt()
    held.discard()


def test_find_running_imports_neither_redis_nor_celery(world: World) -> None:
    up(1, environ=world.env, command=FOREVER)
    code = (
        "import sys; from producer.embedded.warm_stack import find_running; assert find_running()\n"
        "assert not {'redis', 'celery', 'kombu', 'msgspec', 'dbt'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env=world.env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert down(environ=world.env)


# the guardian itself, in this process


def run_guardian(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[guardian_program.Guardian], object] = lambda _: None,
    caller: Sequence[str] = FOREVER,
    *,
    detached: bool = False,
    **changes: Any,
) -> list[dict[str, Any]]:
    """A guardian in this process' main thread; returns its reports.

    `act` runs in another thread; then the process `caller`, whose stdout is the guardian's lifeline, ends.
    """
    folder = world.base / "s-inside"
    folder.mkdir()
    socket = folder / "redis.sock"
    config: dict[str, Any] = {
        "caller": None if detached else os.getppid(),
        "folders": [str(folder)],
        "locks": [],
        "socket": str(socket),
        "server": server_command(find_server(world.env), socket, folder),
        "worker": FOREVER,
        "grace": 2.0,
        "idle_if_empty": None,
        "info": {},
        "failure": None,
        **changes,
    }
    monkeypatch.setattr(guardian_program, "prctl", lambda *_: None)  # pytest is to stay nobody's reaper
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    holder = subprocess.Popen(caller, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    reports, report = os.pipe()
    with monkeypatch.context() as patch:
        patch.setenv("RELAY_TEST_MARK", world.mark)
        guardian = guardian_program.Guardian(config, holder.stdout.fileno(), report)  # type: ignore[arg-type]

        def other() -> None:
            try:
                act(guardian)
            finally:
                holder.kill()

        thread = threading.Thread(target=other)
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
def test_guardian_ends_with_its_callers_pipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        assert not guardian.reason

    events = run_guardian(world, monkeypatch, act)
    assert [event["event"] for event in events] == ["ready"]
    assert events[0]["info"] == {"pid": os.getpid()}
    world.assert_nothing_left()


@in_this_process
def test_detached_guardian_goes_on_after_the_callers_word_until_sigterm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        wait_until(lambda: guardian.lifeline is None, 10, "the word to be heard")
        assert not guardian.reason
        os.kill(os.getpid(), signal.SIGTERM)

    says_keep = [sys.executable, "-c", f"print({guardian_program.KEEP.decode()!r})"]
    events = run_guardian(world, monkeypatch, act, says_keep, detached=True)
    assert [event["event"] for event in events] == ["ready"]
    world.assert_nothing_left()


@in_this_process
def test_worker_that_keeps_ending_fails_the_stack_after_some_tries(
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
def test_server_that_never_answers_fails_the_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "SERVER_START_SECONDS", 0.3)
    events = run_guardian(world, monkeypatch, until_it_ends, server=FOREVER)
    assert [(event["what"], event["how"]) for event in events] == [("server", "did not answer within 0 s")]
    world.assert_nothing_left()


@in_this_process
def test_lost_server_fails_the_stack(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(guardian: guardian_program.Guardian) -> None:
        running(world, "valkey-server", "signal.pause")
        os.kill(guardian.pids["server"], signal.SIGKILL)
        wait_until(lambda: guardian.reason, 10, "the failure")

    events = run_guardian(world, monkeypatch, act)
    assert [event["event"] for event in events] == ["ready", "failed"]
    assert events[1]["how"] == "ended (signal SIGKILL)"
    world.assert_nothing_left()


@in_this_process
def test_long_logs_are_cut_and_keep_one_older_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "MAX_LOG_BYTES", 1000)
    log = world.base / "s-inside" / "worker.log"
    talk = "print('x' * 2000, flush=True); import signal; signal.pause()"

    def act(_: guardian_program.Guardian) -> None:
        wait_until(Path(f"{log}.1").exists, 10, "the older file")
        wait_until(lambda: log.stat().st_size == 0, 10, "the cut")
        assert Path(f"{log}.1").stat().st_size == 2001

    run_guardian(world, monkeypatch, act, worker=[sys.executable, "-c", talk])
    world.assert_nothing_left()


@in_this_process
def test_worker_that_ignores_sigterm_is_killed_when_idle_or_out_of_time(
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
    assert folder.exists() == replaced  # it is another stack's then
    stack.stop()


def test_sweeper_kills_the_groups_it_was_told_of_and_not_those_that_ended(tmp_path: Path) -> None:
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
