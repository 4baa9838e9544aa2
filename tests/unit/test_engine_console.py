"""Output of a step's code on stdout and stderr becomes lines; nothing blocks and nothing is lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from workers.contract.events import STDERR, Event
from workers.engine.output.console import StepConsole, default_logging
from workers.engine.output.events import LineSink


class Captured:
    """A console that keeps the lines that it reports."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.console = StepConsole(lambda text, stream: self.lines.append((stream, text)))

    def of(self, stream: str) -> list[str]:
        return [text for name, text in self.lines if name == stream]


def test_lines_keep_the_order_of_the_writes() -> None:
    captured = Captured()
    with captured.console:
        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"three\n")
        subprocess.run(["echo", "four"], check=True)
        print("five", file=sys.stderr)
    assert [text for _, text in captured.lines] == ["one", "two", "three", "four", "five"]
    assert captured.of("stderr") == ["two", "five"]


def test_lines_are_reported_while_the_step_runs() -> None:
    captured = Captured()
    with captured.console:
        os.write(1, b"now\n")
        wait_until(lambda: captured.lines, 10, "a line")


def test_output_larger_than_the_pipe_does_not_block() -> None:
    captured = Captured()
    size = 3 * 1024 * 1024
    with captured.console:
        subprocess.run(["head", "-c", str(size), "/dev/zero"], check=True)
        os.write(1, b"\n")
        sys.stdout.write("x" * size + "\n")
        sys.stderr.write("y\n" * 100_000)
    assert [len(text) for text in captured.of("stdout")] == [size, size]
    assert captured.of("stderr") == ["y"] * 100_000


def test_invalid_utf8_is_escaped_and_split_characters_are_joined() -> None:
    captured = Captured()
    with captured.console:
        os.write(1, b"\xff\xfe ")
        os.write(1, "é".encode()[:1])
        captured.console.drain()
        os.write(1, "é".encode()[1:] + b"\r\x00\n")
    assert captured.of("stdout") == ["\\xff\\xfe é\r\x00"]


def test_partial_line_is_prepended_to_dbts_next_line() -> None:
    events: list[Event] = []
    sink = LineSink(None, "run", "model.p.m", events.append)
    with StepConsole(sink.code_line) as sink.console:
        print("50% ", end="")
        os.write(2, b"half a secret")
        sink.line("12:00:00  1 of 1 OK")
        print("last", end="")
    assert [(event.text, event.stream) for event in events] == [
        ("50% 12:00:00  1 of 1 OK", ""), ("last", ""), ("half a secret", STDERR),
    ]  # fmt: skip


def test_program_that_outlives_its_step_keeps_running_and_its_output_is_dropped(tmp_path: Path) -> None:
    captured, after = Captured(), Captured()
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo late && echo late >&2 && echo more"
    with captured.console:
        child = subprocess.Popen(["sh", "-c", script])
    with after.console:
        (tmp_path / "go").touch()
        assert child.wait(10) == 0  # not SIGPIPE
    assert (captured.lines, after.lines) == ([], [])


def _print_line() -> None:
    print("child")
    sys.stdout.flush()


def test_output_of_a_forked_child_is_reported_by_its_parent() -> None:
    captured = Captured()
    with captured.console:
        process = multiprocessing.get_context("fork").Process(target=_print_line)
        process.start()
        process.join()
    assert captured.of("stdout") == ["child"]


def _write_lines() -> None:
    for _ in range(500):
        os.write(1, b"z" * 500 + b"\n")  # atomic: shorter than PIPE_BUF


def test_concurrent_writes_of_threads_are_complete() -> None:
    captured = Captured()
    with captured.console:
        threads = [threading.Thread(target=_write_lines) for _ in range(4)]
        for each in threads:
            each.start()
        for _ in range(200):
            captured.console.drain()
        for each in threads:
            each.join()
    assert captured.of("stdout") == ["z" * 500] * 2000


def test_streams_closed_by_the_code_are_restored() -> None:
    before = [os.fstat(number) for number in (1, 2)]
    captured = Captured()
    with captured.console:
        print("before")
        sys.stdout.close()
        os.close(2)
        captured.console.take_partial_line()
    assert captured.lines == [("stdout", "before")]
    assert all(
        os.path.samestat(os.fstat(number), facts) for number, facts in zip((1, 2), before, strict=True)
    )
    print("stdout works again")


def test_interrupt_restores_the_descriptors() -> None:
    before, descriptors = (sys.stdout, sys.stderr), len(os.listdir("/proc/self/fd"))
    captured = Captured()

    def interrupted() -> None:
        with captured.console:
            print("begun", end="")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert captured.lines == [("stdout", "begun")]
    assert (sys.stdout, sys.stderr) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_logging_and_warnings_go_to_stderr_as_in_a_dbt_process() -> None:
    root = logging.getLogger()
    kept, log = root.handlers[:], logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
    captured = Captured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest replaces this function
        warnings.showwarning = lambda *what, **_: sys.stderr.write(warnings.formatwarning(*what[:4]))
        root.addHandler(log)
        logging.captureWarnings(True)
        try:
            with captured.console, default_logging():
                logging.getLogger("some.library").warning("logged")
                logging.getLogger("some.library").info("not shown")
                warnings.warn("warned", stacklevel=1)
                logging.getLogger().addHandler(logging.NullHandler())
            assert warnings.showwarning.__module__ == "logging"
            assert root.handlers == [*kept, log]
        finally:
            logging.captureWarnings(False)
            root.removeHandler(log)
            log.stream.close()
    first, second, *_ = captured.of("stderr")
    assert first == "WARNING:some.library:logged"
    assert "UserWarning: warned" in second
