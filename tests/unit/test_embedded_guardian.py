"""The guardian's functions, without a stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer.embedded import guardian as guardian_program


@pytest.mark.parametrize(
    ("code", "words"), [("exit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 15)", "signal SIGTERM")]
)
def test_describe_exit(code: str, words: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status_ = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert guardian_program.describe_exit(status_) == words


def test_describe_exit_by_an_unnamed_signal() -> None:
    assert guardian_program.describe_exit(50) == "signal 50"


def test_tail_is_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert guardian_program.tail(str(log)) == ""
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert guardian_program.tail(str(log), 2) == "line 4998\nline 4999"


@pytest.mark.parametrize(
    ("data", "expected"), [(b"", None), (b'{"caller":', None), (b'{"caller": 1}\n', {"caller": 1})]
)
def test_read_config_needs_a_whole_line(data: bytes, expected: object) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, data)
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


def test_prctl_does_nothing_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program.sys, "platform", "darwin")
    guardian_program.prctl(-1, -1)


def test_guardian_without_a_caller_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_program, "read_config", lambda _: None)
    assert guardian_program.main() == 0


def test_locks_are_not_inherited_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_guardian_imports_only_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", guardian_program.__file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
