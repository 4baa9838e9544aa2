"""Processes that cannot renew their leases, and hooks that are executed twice when a process is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from producer.client import RelayClient
from tests.support.background import SHORT_LEASES, Background
from tests.support.projects import ROOT, copy_project
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.events import REPEATED, Event
from workers.contract.results import DbtResult

LEASE = 2.0

AIDS = """
import ctypes, os, re, time

def holds(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:  # a signal ends sleep(3)
        ctypes.PyDLL(None).sleep(max(1, round(until - time.monotonic())))

def waits(path):
    while not os.path.exists(path):
        time.sleep(0.02)

re.holds, re.waits = holds, waits
re.__all__ += ["holds", "waits"]
"""
"""Templates of these tests call it as ``modules.re``. `holds` holds the GIL, as a call into C may."""

MACROS = """
{% macro hold(seconds) %}{% if execute %}{% do modules.re.holds(seconds) %}{% endif %}{% endmacro %}
{% macro pause() %}
  {% if execute %}
    {% do log('working on the hook', info=true) %}
    {% do modules.re.waits(env_var('RELAY_TEST_GATE')) %}
  {% endif %}
{% endmacro %}
"""

HOOKS = """
on-run-end:
  - "create table if not exists hooks (n integer)"
  - "{{ %s }} insert into hooks values (1)"
"""


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, tmp_path_factory: pytest.TempPathFactory) -> WorkerPool:
    aids = tmp_path_factory.mktemp("aids")
    (aids / "sitecustomize.py").write_text(AIDS)
    path = f"{aids}{os.pathsep}{ROOT}"
    return module_worker_pool(
        1, env={**SHORT_LEASES, "DBT_RELAY_LEASE_SECONDS": str(LEASE), "PYTHONPATH": path}, coverage=True
    )


@pytest.fixture
def project(tmp_path: Path, duckdb_file: Path) -> Path:
    """The slow project, of which only the first node takes its time."""
    project = copy_project("slow", tmp_path / "project")
    (project / "macros" / "aids.sql").write_text(MACROS)
    for model in ("left", "right", "last"):
        (project / "models" / f"{model}.sql").write_text("select id from {{ ref('first') }}")
    return project


def add_hooks(project: Path, call: str) -> None:
    with (project / "dbt_project.yml").open("a") as file:
        file.write(HOOKS % call)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def has_ended(run: Background, node: str) -> bool:
    return any(event.node.endswith(f".{node}") and event.state == "success" for event in run.events)


def test_leases_are_renewed_while_pool_process_holds_gil_or_main_process_is_stopped(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    """Each of the two processes renews alone, one after the other."""
    add_hooks(project, f"hold({2.5 * LEASE})")
    run = Background(project, redis_server.broker_url, seconds=1.5 * LEASE)
    wait_until(lambda: run.has_line("working on first"), 40, "the first node to run")
    with stopped(pool.pid):
        wait_until(lambda: has_ended(run, "first"), 40, "the first node to end")
    result = run.wait(60)
    assert result.success, result.stdout[-2000:]
    assert [event for event in run.events if event.state in {"lost", "retrying", REPEATED}] == []
    attempts = [attempt for node in result.nodes for attempt in node.attempts] + list(result.attempts)
    assert {attempt.number for attempt in attempts} == {1}
    with duckdb.connect(str(duckdb_file)) as connection:
        assert connection.sql("select n from hooks").fetchall() == [(1,)]
    assert (result.warnings, result.stderr) == ((), "")


def test_cancelled_run_does_not_wait_for_process_that_holds_gil(
    pool: WorkerPool, project: Path, redis_server: RedisServer
) -> None:
    (project / "models" / "left.sql").write_text("{% do log('working on left', info=true) %}{{ hold(300) }}")
    run = Background(project, redis_server.broker_url, args=("run", "--select", "left"))
    wait_until(lambda: run.has_line("working on left"), 40, "the node to run")
    RelayClient(redis_server.broker_url).cancel(run.events[0].run_id)
    result = run.wait(60)
    assert result.error is not None
    assert (result.return_code, result.error.code) == (1, "cancelled")


@pytest.mark.parametrize(
    "args", [("run", "--select", "left"), ("run-operation", "pause")], ids=lambda args: args[0]
)
def test_hooks_that_were_executed_twice_are_reported(
    pool: WorkerPool, project: Path, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
) -> None:  # fmt: skip
    gate = tmp_path / "gate"
    monkeypatch.setenv("RELAY_TEST_GATE", str(gate))
    add_hooks(project, "pause()")
    (project / "models" / "left.sql").write_text("select 1 as id")
    run = Background(project, redis_server.broker_url, args=args)
    wait_until(lambda: run.has_line("working on the hook"), 40, "the hook to run")
    os.kill(worker_of_last_step(run.events), signal.SIGKILL)
    gate.touch()
    result = run.wait(60)
    assert result.success, result.stdout[-2000:]
    step, what = {
        "run": ("@close", "on-run-end hooks were"), "run-operation": ("@command", "dbt run-operation was"),
    }[args[0]]  # fmt: skip
    (warning,) = result.warnings
    assert warning.startswith(f"{what} executed again and may have run twice: an earlier execution was lost")
    assert result.stderr == warning
    assert [(event.node, event.text, event.level) for event in run.events if event.state == REPEATED] == [
        (step, warning, "warn")
    ]
    assert_unchanged_for_dbt(result)


def worker_of_last_step(events: list[Event]) -> int:
    running = [event.worker for event in events if event.state == "running"]
    return int(running[-1].rpartition(":")[2])


def assert_unchanged_for_dbt(result: DbtResult) -> None:
    """dbt's own lines and artifacts say nothing of it."""
    assert "executed again" not in result.stdout
    assert "executed again" not in str(result.run_results)
