"""Commands whose standard streams are closed or full."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.projects import ROOT

RELAY = f"{sys.executable} -m producer"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_change_the_exit_code(streams: str) -> None:
    done = shell(f"{RELAY} --version {streams}; echo $? >&2; exit")
    assert done.stderr.splitlines()[-1] == "0"
    assert shell(f"{RELAY} run --nope {streams}").returncode == 2


@pytest.mark.parametrize("words", ["--version", "run --help", "up --help"])
def test_help_that_cannot_be_written_is_an_error(words: str) -> None:
    done = shell(f"{RELAY} {words} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "Error: stdout cannot be written: No space left on device\n")


def test_exit_code_of_an_error_that_cannot_be_written() -> None:
    assert shell(f"{RELAY} run --nope 2> /dev/full").returncode == 2


def test_full_stdout_does_not_stop_the_program() -> None:
    script = "from producer.cli.main import print_line; [print_line('x') for _ in range(3)]; print('later')"
    done = shell(f'{sys.executable} -c "{script}" > /dev/full')
    assert (done.returncode, done.stderr) == (0, "")


def test_opened_files_do_not_get_descriptors_of_closed_streams() -> None:
    script = "from producer.following.streams import open_missing; open_missing(); import os; print(os.open('/', 0) > 2)"
    assert shell(f'exec <&- 2>&-; {sys.executable} -c "{script}"').stdout == "True\n"
