"""Whatever a step's code does to write on stdout and stderr becomes lines, and nothing of it blocks or gets lost."""

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


class Heard:
    """A console that keeps what it tells."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.console = StepConsole(lambda text, stream: self.lines.append((stream, text)))

    def of(self, stream: str) -> list[str]:
        return [text for name, text in self.lines if name == stream]


def test_order_is_that_of_the_writes() -> None:
    heard = Heard()
    with heard.console:
        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"three\n")
        subprocess.run(["echo", "four"], check=True)
        print("five", file=sys.stderr)
    assert [text for _, text in heard.lines] == ["one", "two", "three", "four", "five"]
    assert heard.of("stderr") == ["two", "five"]


def test_lines_are_told_while_the_step_goes_on() -> None:
    heard = Heard()
    with heard.console:
        os.write(1, b"now\n")
        wait_until(lambda: heard.lines, 10, "a line")


def test_more_than_a_pipe_holds_does_not_block() -> None:
    heard = Heard()
    size = 3 * 1024 * 1024
    with heard.console:
        subprocess.run(["head", "-c", str(size), "/dev/zero"], check=True)
        os.write(1, b"\n")
        sys.stdout.write("x" * size + "\n")
        sys.stderr.write("y\n" * 100_000)
    assert [len(text) for text in heard.of("stdout")] == [size, size]
    assert heard.of("stderr") == ["y"] * 100_000


def test_bytes_that_are_no_text_are_escaped_and_characters_are_whole() -> None:
    heard = Heard()
    with heard.console:
        os.write(1, b"\xff\xfe ")
        os.write(1, "é".encode()[:1])
        heard.console.drain()
        os.write(1, "é".encode()[1:] + b"\r\x00\n")
    assert heard.of("stdout") == ["\\xff\\xfe é\r\x00"]


def test_a_line_that_is_not_complete_comes_before_the_next_of_dbt() -> None:
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


def test_a_program_that_outlives_the_step_is_not_heard_in_the_next_one_and_goes_on(tmp_path: Path) -> None:
    heard, after = Heard(), Heard()
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo late && echo late >&2 && echo more"
    with heard.console:
        child = subprocess.Popen(["sh", "-c", script])
    with after.console:
        (tmp_path / "go").touch()
        assert child.wait(10) == 0  # not SIGPIPE
    assert (heard.lines, after.lines) == ([], [])


def _say() -> None:
    print("child")
    sys.stdout.flush()


def test_a_fork_says_its_lines_through_its_parent() -> None:
    heard = Heard()
    with heard.console:
        process = multiprocessing.get_context("fork").Process(target=_say)
        process.start()
        process.join()
    assert heard.of("stdout") == ["child"]


def _write_lines() -> None:
    for _ in range(500):
        os.write(1, b"z" * 500 + b"\n")  # whole, as it is shorter than PIPE_BUF


def test_threads_may_write_at_once() -> None:
    heard = Heard()
    with heard.console:
        threads = [threading.Thread(target=_write_lines) for _ in range(4)]
        for each in threads:
            each.start()
        for _ in range(200):
            heard.console.drain()
        for each in threads:
            each.join()
    assert heard.of("stdout") == ["z" * 500] * 2000


def test_code_may_close_what_is_not_its_own() -> None:
    before = [os.fstat(number) for number in (1, 2)]
    heard = Heard()
    with heard.console:
        print("before")
        sys.stdout.close()
        os.close(2)
        heard.console.take_partial_line()
    assert heard.lines == [("stdout", "before")]
    assert all(
        os.path.samestat(os.fstat(number), facts) for number, facts in zip((1, 2), before, strict=True)
    )
    print("stdout works again")


def test_an_interruption_gives_the_descriptors_back() -> None:
    before, descriptors = (sys.stdout, sys.stderr), len(os.listdir("/proc/self/fd"))
    heard = Heard()

    def interrupted() -> None:
        with heard.console:
            print("begun", end="")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert heard.lines == [("stdout", "begun")]
    assert (sys.stdout, sys.stderr) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_logging_and_warnings_are_those_of_a_dbt_process() -> None:
    root = logging.getLogger()
    kept, log = root.handlers[:], logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
    heard = Heard()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest collects them behind this
        warnings.showwarning = lambda *what, **_: sys.stderr.write(warnings.formatwarning(*what[:4]))
        root.addHandler(log)
        logging.captureWarnings(True)
        try:
            with heard.console, default_logging():
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
    first, second, *_ = heard.of("stderr")
    assert first == "WARNING:some.library:logged"
    assert "UserWarning: warned" in second
