"""Fences on Postgres: connections of an execution that lost its step are ended, and it opens no new ones."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.postgres_server import PostgresDatabase
from workers.engine.engine import Engine
from workers.engine.warehouse import fencing
from workers.engine.warehouse.concurrency import close_warehouse
from workers.engine.warehouse.fencing import StepExecution

pytestmark = pytest.mark.postgres
RUN, STEP = "20250101T000000-0123456789ab", "model.slow.first"

Connect = Callable[..., Any]


def execution(fence: int, step: str = STEP, run_id: str = RUN, **more: Any) -> StepExecution:
    return StepExecution(run_id=run_id, step=step, fence=fence, **more)


@pytest.fixture
def project(
    copy_project: Callable[..., Path], postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv("RELAY_TEST_TARGET", "postgres")
    project = copy_project("slow")
    (project / "models" / "first.sql").write_text(
        "{{ config(materialized='table') }}\n"
        "select application_name from pg_stat_activity where pid = pg_backend_pid()\n"
    )
    yield project
    close_warehouse()


@pytest.fixture
def connect(postgres_database: PostgresDatabase) -> Iterator[Connect]:
    """Return a function that opens a connection in a transaction, as a paused execution has it."""
    with contextlib.ExitStack() as stack:

        def open_as(execution: StepExecution) -> Any:
            database = postgres_database
            connection = stack.enter_context(
                contextlib.closing(
                    psycopg2.connect(
                        host=database.host, port=database.port, user=database.user, dbname=database.dbname,
                        password=database.password, application_name=f"dbt {execution.mark}",
                    )
                )
            )  # fmt: skip
            connection.cursor().execute("select 1")
            return connection

        yield open_as


def run(project: Path, execution: StepExecution) -> Ran:
    engine = Engine(Shared(), worker="w:1")
    with engine.fenced(execution):
        return drive(engine, spec_for(project, "run", "--select", "first"))


def alive(connection: Any) -> bool:
    try:
        connection.cursor().execute("select 1")
    except psycopg2.OperationalError:
        return False
    return True


def test_retry_ends_connections_of_earlier_executions_of_the_step_only(
    project: Path, connect: Connect, postgres_database: PostgresDatabase
) -> None:
    postgres_database.query("create table public.first as select 'old' as application_name")
    stale = connect(execution(1))
    # locks the table, so that nobody can drop it
    stale.cursor().execute("insert into public.first values ('half done')")
    others = [
        connect(execution(4)), connect(execution(2, "model.slow.left")),
        connect(execution(1, run_id="20250101T000000-ffffffffffff")),
    ]  # fmt: skip
    ran = run(project, execution(3, has_predecessors=True))
    assert ran.statuses == {"first": "success"}, ran.lines
    assert not alive(stale)
    assert all(alive(other) for other in others)
    rows = postgres_database.query("select application_name from public.first")
    assert rows == [(f"dbt {execution(3).mark}",)]


def test_last_step_of_a_run_ends_connections_of_its_lost_executions(project: Path, connect: Connect) -> None:
    stale = [connect(execution(2, "model.slow.left")), connect(execution(1, "@close"))]
    newer, other = (
        connect(execution(3, "@close")),
        connect(execution(1, run_id="20250101T000000-ffffffffffff")),
    )
    ran = run(project, execution(2, "@close", supersedes_run=True))
    assert ran.statuses == {"first": "success"}, ran.lines
    assert [alive(each) for each in [*stale, newer, other]] == [False, False, True, True]


def test_first_execution_of_a_step_ends_no_connection(project: Path, connect: Connect) -> None:
    before = connect(execution(1))
    assert run(project, execution(2)).statuses == {"first": "success"}
    assert alive(before)


def test_execution_that_lost_its_step_opens_no_connection(
    project: Path, postgres_database: PostgresDatabase
) -> None:
    def lost() -> None:
        raise RuntimeError(f"{STEP} was given to another worker: this worker did not renew its lease in time")

    ran = run(project, execution(1, check_lease=lost))
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert ran.finished.error.code == "connection_lost"
    assert postgres_database.query("select to_regclass('public.first')") == [(None,)]
    left = "select 1 from pg_stat_activity where application_name like '%relay/%'"
    assert postgres_database.query(left) == []


def test_backend_that_does_not_end_fails_the_next_execution(
    project: Path, connect: Connect, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "TERMINATE_TIMEOUT", 0.2)
    server_process = connect(execution(1)).info.backend_pid
    os.kill(server_process, signal.SIGSTOP)
    try:
        ran = run(project, execution(2, has_predecessors=True))
    finally:
        os.kill(server_process, signal.SIGCONT)
    assert ran.finished.error is not None
    assert ran.finished.error.code == "earlier_attempt_alive"
    assert str(server_process) in ran.finished.error.suggested_fix
    assert postgres_database.query("select to_regclass('public.first')") == [(None,)]


def test_mark_fits_into_application_name(project: Path) -> None:
    class Credentials:
        application_name = "ünïcode" * 20

    marked = fencing.PostgresFence().marked(Credentials(), execution(10**9).mark).application_name
    assert len(marked.encode()) <= 63
    assert marked.startswith("ünïcode")
    assert marked.endswith(f" {execution(10**9).mark}")
    assert Credentials.application_name == "ünïcode" * 20
