"""``dbt-relay verify`` in a process: its report, its exit code, and no copies left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pytest

from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.processes import without_coverage
from tests.support.projects import ROOT, copy_project
from tests.support.waiting import wait_until
from workers.contract.errors import DbtUsageError
from workers.contract.verify_job import DIFFERENT, EQUAL, REFUSED
from workers.verify.postgres_copy import PostgresSource

COPIES = "dbt-relay-verify-*"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITH_RANDOM_COLUMN = """{{ config(materialized='table') }}
select order_id, '{{ invocation_id }}' as run_by, now() as seen, random() as luck from {{ ref('stg_orders') }}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project("small", tmp_path / "small")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Folder of the copies. Each test must end without copies in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.glob(COPIES)) == []


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "producer", "verify", *words]


def environment(scratch: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**without_coverage(), "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), **(env or {})}


def verify(
    project: Path, scratch: Path, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=project, env=environment(scratch, env), capture_output=True, text=True, check=False
    )  # fmt: skip


def test_two_equal_commands(project: Path, scratch: Path) -> None:
    file = project / "small.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table before as select 1 as there_already")
    was = file.read_bytes()
    (project / "models" / "lucky.sql").write_text(WITH_RANDOM_COLUMN)
    again = ("run", "--vars", "{year: 2026}", "--select", "orders_by_year")
    done = verify(project, scratch, "--measured", "luck", "build", "--then", *again)
    assert done.returncode == EQUAL, done.stdout + done.stderr
    assert done.stderr == ""
    assert "dbt build\n  equal: exit code 0; 11 nodes (7 success, 4 pass)" in done.stdout
    assert "dbt run --vars '{year: 2026}' --select orders_by_year\n  equal" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Equal: 2 commands, 15 node results, ")
    assert file.read_bytes() == was  # the user's warehouse is not touched
    assert not (project / "target").exists()
    assert not (project / "logs").exists()


def test_a_difference_is_shown_with_relation_and_row(project: Path, scratch: Path) -> None:
    (project / "models" / "lucky.sql").write_text(WITH_RANDOM_COLUMN)
    done = verify(project, scratch, "build", "--select", "+lucky", "--then", "run")
    assert done.returncode == DIFFERENT, done.stdout + done.stderr
    assert "1 difference; plain dbt: exit code 0" in done.stdout
    assert "main.lucky rows: 6 and 6, which differ in luck; on one side only:" in done.stdout
    assert "plain: order_id=1, run_by='<invocation 1>', seen='<during 1>', luck=0." in done.stdout
    assert "relay: order_id=1, run_by='<invocation 1>', seen='<during 1>', luck=0." in done.stdout
    assert "1 command was not run" in done.stdout
    assert "--plain-twice" in done.stdout


def test_warehouse_that_cannot_be_copied_is_an_error(project: Path, scratch: Path) -> None:
    done = verify(project, scratch, "build", env={"RELAY_TEST_DUCKDB": ":memory:"})
    assert done.returncode == REFUSED
    assert ":memory:, which exists only in one process" in done.stderr
    profile = (project / "profiles.yml").read_text().replace("type: duckdb", "type: snowflake")
    (project / "profiles.yml").write_text(profile)
    done = verify(project, scratch, "build")
    assert done.returncode == REFUSED
    assert "snowflake" in done.stderr
    assert "supports only DuckDB files and Postgres databases" in done.stderr
    assert "Traceback" not in done.stderr


def test_command_that_dbt_cannot_run_is_not_equal(project: Path, scratch: Path) -> None:
    (project / "models" / "lost.sql").write_text("select * from {{ ref('nowhere') }}")
    done = verify(project, scratch, "--plain-twice", "build", "--then", "run")
    assert done.returncode == REFUSED
    assert "depends on a node named 'nowhere' which was not found" in done.stdout
    assert "plain dbt once more on the other" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Nothing to compare: plain dbt cannot run this command")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_copies_are_removed_when_the_caller_is_killed(
    project: Path, scratch: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        command("build"), cwd=project, env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Copied twice"):
                break
        process.send_signal(number)
        _, stderr = process.communicate()
    assert process.returncode != EQUAL
    assert "Traceback" not in stderr
    wait_until(lambda: not list(scratch.glob(COPIES)), 60, "the copies to go")


# -- Postgres


@pytest.mark.postgres
def test_a_postgres_database(project: Path, scratch: Path, postgres: PostgresServer) -> None:
    with postgres.database() as database:
        database.query("""create table "k%pt" as select 1 as there_already, '\\x00ff'::bytea as bytes""")
        env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
        done = verify(project, scratch, "build", env=env)
        assert done.returncode == EQUAL, done.stdout + done.stderr
        assert f"the Postgres database {database.dbname} on" in done.stdout
        assert "equal: exit code 0; 10 nodes (6 success, 4 pass)" in done.stdout
        assert database.query(
            "select table_name from information_schema.tables where table_schema = 'public'"
        ) == [("k%pt",)]
        assert copies_on(database) == []


def copies_on(database: PostgresDatabase) -> list[tuple[object, ...]]:
    return database.query("select datname from pg_database where datname like 'dbt_relay_verify%'")


def source(of: PostgresDatabase, **credentials: str) -> PostgresSource:
    given = {
        "host": of.host,
        "port": of.port,
        "user": of.user,
        "password": of.password,
    }
    return PostgresSource({**given, "database": of.dbname, **credentials})


@pytest.mark.postgres
def test_copy_has_the_rights_of_the_original_and_is_dropped(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.database() as database:
        database.query("create role verify_reader")
        database.query(f"grant create on database {database.dbname} to verify_reader")
        try:
            with source(database).copies({"plain": tmp_path, "relay": tmp_path}) as copies:
                for copy, changes in copies.values():
                    assert changes == {"dbname": copy.database}
                    with contextlib.closing(copy.connection()) as connection, connection.cursor() as cursor:
                        cursor.execute(
                            "select has_database_privilege('verify_reader', current_database(), 'create')"
                        )
                        assert cursor.fetchone() == (True,)
            assert copies_on(database) == []
        finally:
            database.query(f"revoke all on database {database.dbname} from verify_reader")
            database.query("drop role verify_reader")


@pytest.mark.postgres
def test_missing_right_to_copy_is_named(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.database() as database:

        def refused(**credentials: str) -> str:
            with (
                pytest.raises(DbtUsageError) as error,
                source(database, **credentials).copies({"plain": tmp_path}),
            ):
                pytest.fail("copied")
            return str(error.value)

        database.query("create role verify_poor login password 'poor'")
        try:
            poor = {"user": "verify_poor", "password": "poor"}
            assert 'alter role "verify_poor" createdb' in refused(**poor)
            database.query("alter role verify_poor createdb")
            assert f'alter database "{database.dbname}" is_template true' in refused(**poor)
        finally:
            database.query("drop role verify_poor")
        with contextlib.closing(database.connect()):
            assert "end those connections" in refused()
        assert "password authentication failed" in refused(password="wrong")
        assert "does not exist" in refused(database="nowhere")
        assert copies_on(database) == []
