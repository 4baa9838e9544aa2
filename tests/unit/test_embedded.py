"""The embedded stack without processes: settings, handle and state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer.broker import configured_broker
from producer.embedded import handle as guardian_handle
from producer.embedded import launch, runtime_dirs, warm_stack
from producer.embedded import stack as embedded
from producer.embedded.warm_stack import find_running, status
from workers.contract.errors import BrokerUnavailableError, NoWorkerError, RelayError


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
    assert configured_broker(environ) == expected


def test_configured_broker_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://from-here")
    assert configured_broker() == "redis://from-here"


def test_number_of_workers() -> None:
    assert launch.default_workers({"DBT_RELAY_WORKERS": " 3 "}) == 3
    assert 1 <= launch.default_workers({}) <= 4


@pytest.mark.parametrize("value", ["0", "-1", "257", "two", "1.5"])
def test_invalid_number_of_workers_names_the_setting(value: str) -> None:
    with pytest.raises(RelayError, match=f"(?s)DBT_RELAY_WORKERS is '{value}'.*1 to 256"):
        launch.default_workers({"DBT_RELAY_WORKERS": value})
    with pytest.raises(RelayError, match="workers is"):
        embedded.EmbeddedStack(workers=value)  # type: ignore[arg-type]


def test_stop_seconds() -> None:
    assert launch.stop_seconds({}) is None
    assert launch.grace({}) == launch.GRACE_SECONDS
    assert launch.grace({"DBT_RELAY_STOP_SECONDS": "0.5"}) == 0.5
    for value in ("soon", "-1", "nan", "1e9"):
        with pytest.raises(RelayError, match="DBT_RELAY_STOP_SECONDS is"):
            launch.grace({"DBT_RELAY_STOP_SECONDS": value})


def test_worker_command() -> None:
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


def test_worker_environment_has_absolute_paths_and_no_celery_settings(
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


def test_site_packages_of_an_installed_package_are_not_added_to_pythonpath(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workers.contract

    monkeypatch.setattr(workers.contract, "__path__", ["/env/lib/site-packages/workers/contract"])
    directory = runtime_dirs.new_stack_dir({"TMPDIR": str(base)})
    assert "PYTHONPATH" not in launch.worker_environment({}, directory)
    directory.discard()


def handle_of(*reports: bytes) -> guardian_handle.Handle:
    """A handle of a guardian that writes `reports` and ends."""
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
def test_check_raises_the_reason_of_the_end(report: bytes, kind: type[RelayError], words: str) -> None:
    handle = handle_of(report)
    assert handle.wait_end(20)
    with pytest.raises(kind, match=f"(?s){words}"):
        guardian_handle.check(handle, INFO, "relay")
    handle.stop()
    assert handle.process.returncode == 0


def test_closed_handle_has_ended() -> None:
    handle = handle_of()
    handle.stop()
    handle.ended = False
    handle.read_reports()
    assert handle.ended


def test_sending_to_an_ended_guardian_is_ignored() -> None:
    handle = handle_of()
    handle.process.wait()
    handle.send(b"x" * 200_000)
    handle.stop()


def test_forget_does_not_end_the_guardian() -> None:
    handle = handle_of()
    process = handle.process
    with handle._lock:  # as by a thread of the parent
        handle.forget()
    assert handle.lifeline.closed
    process.returncode = None
    process.wait()


def test_no_registered_workers_without_a_server() -> None:
    assert guardian_handle.registered_workers(INFO, "relay") == []


def test_python_that_cannot_run_the_guardian_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_wait_for_a_silent_guardian_times_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = embedded.EmbeddedStack(environ={**os.environ, "DBT_RELAY_RUNTIME_DIR": str(base)})
    (base / "fake").write_text("#!/bin/sh\nread line\nread end\n")
    (base / "fake").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(base / "fake"))
    monkeypatch.setattr(launch, "START_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailableError, match="did not start"):
        stack.start()


def test_embedded_stack_needs_posix(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_stack_before_the_first_start(base: Path) -> None:
    environ = {"DBT_RELAY_RUNTIME_DIR": str(base / "none")}
    assert find_running(environ) is None
    assert embedded.status(environ) == embedded.StackStatus(None)
    assert embedded.down(environ=environ) is False
    (base / "none").mkdir(0o700)
    assert embedded.down(environ=environ) is False
    assert not (base / "none" / "up").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": 1}', '{"runtime_dir": 5}'])
def test_invalid_state_file_is_ignored(base: Path, text: str) -> None:
    (base / "up").mkdir(0o700)
    (base / "up" / "stack.json").write_text(text)
    assert find_running({"DBT_RELAY_RUNTIME_DIR": str(base)}) is None


def test_state_of_a_locked_stack_is_kept(base: Path) -> None:
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


def test_invalid_failure_file_is_ignored(base: Path) -> None:
    runtime_dirs.failure_file(base).write_text("{")
    assert status({"DBT_RELAY_RUNTIME_DIR": str(base)}).failure == ""


def test_check_and_stop_before_the_first_start() -> None:
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
        stack.start()  # it starts another stack
    assert handle.lifeline.closed
    assert stack._info is None


def test_counts_are_zero_if_the_server_has_ended() -> None:
    assert warm_stack._count(INFO, "LLEN", "dbt-relay") == 0


def test_shared_stack_is_created_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_shared", {})
    first = embedded.shared_stack(workers=3)
    assert embedded.shared_stack(workers=5) is first
    assert first._workers == 3
