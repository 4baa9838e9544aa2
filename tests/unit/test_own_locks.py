"""Lock errors of a DuckDB file that the caller itself has open."""

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
    """Result of a run whose DuckDB file was locked by `pid`."""
    text = f'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /bin/p (PID {pid}). See'
    error = classify(Failure(message=text, adapter="duckdb"))
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
def test_message_names_the_process_that_has_the_file_open(find: Callable[[], int], message: str) -> None:
    pid = find()
    message = message.format(pid=pid)
    explained = explain_own_locks(result_of(pid, socket.gethostname()))
    assert explained.error is not None
    assert explained.error.message == explained.stderr == message
    assert "tried again" not in explained.error.suggested_fix


def test_same_pid_on_another_machine_is_not_this_process() -> None:
    explained = explain_own_locks(result_of(os.getpid(), "elsewhere"))
    assert explained.error is not None
    assert explained.error.message == "another process has /w.duckdb open"


def test_ancestors_of_a_child_process() -> None:
    code = "from producer.following.own_locks import ancestors; print(*ancestors())"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [int(pid) for pid in printed.split()] == [os.getpid(), *ancestors()]
