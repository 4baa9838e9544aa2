"""Who is told that it has the file open itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from producer.following.own_locks import ancestors, explain_own_locks
from workers.contract.errors.classify import Failure, classify
from workers.contract.results import Attempt, DbtResult


def result_of(pid: int, host: str) -> DbtResult:
    """A run that found its file locked."""
    said = f'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /bin/p (PID {pid}). See'
    error = classify(Failure(message=said, adapter="duckdb"))
    attempt = Attempt(
        step="@start", number=1, worker=f"{host}:1", started_at=0, finished_at=1, status="error"
    )
    return DbtResult(
        success=False, stdout="", stderr=error.message, execution_time=1, return_code=2, command=["dbt", "run"],
        error=error, attempts=(attempt,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (os.getpid, "this program (PID {pid}) has /w.duckdb open itself"),
        (os.getppid, "the program that started this command (PID {pid}) has /w.duckdb open"),
        (lambda: 2**22 + 1, "another process has /w.duckdb open"),
    ],
    ids=["this process", "its parent", "another"],
)
def test_who_has_the_file(find: Callable[[], int], message: str) -> None:
    pid = find()
    message = message.format(pid=pid)
    told = explain_own_locks(result_of(pid, socket.gethostname()))
    assert told.error is not None
    assert told.error.message == told.stderr == message
    assert "tried again" not in told.error.suggested_fix


def test_a_number_of_another_machine_is_not_this_process() -> None:
    told = explain_own_locks(result_of(os.getpid(), "elsewhere"))
    assert told.error is not None
    assert told.error.message == "another process has /w.duckdb open"


def test_parents_are_those_that_started_this_process() -> None:
    code = "from producer.following.own_locks import ancestors; print(*ancestors())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [int(pid) for pid in told.split()] == [os.getpid(), *ancestors()]
