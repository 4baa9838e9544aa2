"""Runs dbt on broken projects and checks the classification of every failure.

``tests/projects/errors`` has nodes that each fail in a different way, ``tests/projects/trouble`` a model for failures of
the warehouse. Errors that end a whole command are made here: one broken file in a small project.
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.processes import without_coverage
from tests.support.projects import copy_project
from tests.support.waiting import wait_until
from workers.contract.errors import ErrorInfo
from workers.contract.errors.classify import Failure, classify, classify_text

HELPER = Path(__file__).with_name("support_dbt_failures.py")
ROOT = Path(__file__).resolve().parents[2]


class Outcome(msgspec.Struct):
    """Output and failures of one dbt command."""

    success: bool
    console: str
    return_code: int
    failures: list[Failure]

    def of(self, node: str = "") -> Failure:
        """The failure of a node, by its name; without a name, the only failure."""
        if not node:
            assert len(self.failures) == 1, [failure.node for failure in self.failures]
            return self.failures[0]
        found = [failure for failure in self.failures if node in (failure.node or "").split(".")]
        assert len(found) == 1, f"{node}: {[failure.node for failure in self.failures]}\n{self.console}"
        return found[0]


class Expected(msgspec.Struct, frozen=True):
    """Expected classification of a failure; `fix` are parts of the suggested fix."""

    code: str
    category: str
    fix: tuple[str, ...]
    retryable: bool = False
    line: int | None = None
    marked: str = ""  # the line that the excerpt marks

    def check(self, info: ErrorInfo) -> None:
        """Assert that `info` is as expected."""
        assert (info.code, info.category, info.retryable) == (self.code, self.category, self.retryable), info
        for part in self.fix:
            assert part in info.suggested_fix
        assert info.line == self.line, info
        marked = [
            line.partition("| ")[2] for line in (info.sql_excerpt or "").splitlines() if line[:1] == ">"
        ]
        assert marked == ([self.marked] if self.marked else [])
        assert info.message
        assert len(info.message) <= 300


def start_dbt(jobs: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """Start the helper process with jobs; `outcomes_of` waits for it."""
    env = {**without_coverage(), "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=env,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(jobs))
    process.stdin.close()
    process.stdin = None
    return process


def outcomes_of(process: subprocess.Popen[str]) -> dict[str, Outcome]:
    """Wait for the helper; return outcomes by job name."""
    try:
        stdout, stderr = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    return msgspec.json.decode(stdout, type=dict[str, Outcome])


def run_dbt(jobs: list[dict[str, Any]]) -> dict[str, Outcome]:
    """Run jobs in a helper; return outcomes by job name."""
    return outcomes_of(start_dbt(jobs))


def classified_from_text_too(failure: Failure) -> ErrorInfo:
    """Classify a failure, and check that its text alone has the same classification."""
    info = classify(failure)
    assert classify(msgspec.structs.replace(failure, exceptions=())) == info
    return info


# nodes that fail while they are executed

NODES = {
    "ambiguous_column": Expected(
        "ambiguous_column", "database", ("Qualify employee_id with its table",), line=1, marked="select employee_id"
    ),
    "adapter_macro_query": Expected("missing_column", "database", ('"anual"', "adapter_macro_query.sql")),
    "broken_post_hook": Expected("missing_relation", "database", ("no_such_audit",)),
    "check_violation": Expected("constraint_violation", "contract", ("rows that break",)),
    "contract_violation": Expected(
        "contract_violation", "contract", ("cast salary to INTEGER", "select department", "leave active out")
    ),
    "errors_missing_column": Expected(
        "test_errored", "database", ("could not run", 'Did you mean "employee_id"'), line=9,
        marked="where employe_id is null",
    ),
    "errors_singular": Expected(
        "test_errored", "database", ('Did you mean "salary"', "tests/errors_singular.sql"), line=1,
        marked='select * from "errors"."main"."roster" where salry > 80000',
    ),
    "errors_unit_test": Expected("test_errored", "database", ("'wages'", "employee_id, name, department")),
    "fails_accepted_values": Expected("test_failed", "data_quality", ("show --select fails_accepted_values", "2 failing rows")),
    "fails_not_null": Expected("test_failed", "data_quality", ("show --select fails_not_null", "1 failing row;")),
    "fails_singular": Expected("test_failed", "data_quality", ("2 failing rows", "tests/fails_singular.sql")),
    "fails_unique": Expected("test_failed", "data_quality", ("1 failing row;",)),
    "fails_unit_test": Expected("unit_test_failed", "data_quality", ("test --select fails_unit_test",)),
    "foreign_key_violation": Expected("constraint_violation", "contract", ("999", "parent table")),
    "group_by": Expected("grouping_error", "database", ("GROUP BY",), line=1, marked="select department, salary"),
    "hidden_ref": Expected("hidden_dependency", "compilation", ("-- depends_on: {{ ref('stg_payroll') }}",)),
    "microbatch": Expected("batches_failed", "database", ("dbt-relay retry",)),
    "missing_column": Expected(
        "missing_column", "database", ('Did you mean "name"', "models/sql/missing_column.sql"), line=3, marked="    nmae,"
    ),
    "missing_function": Expected(
        "missing_function", "database", ("anualise",), line=1,
        marked='select anualise(salary) as yearly from "errors"."main"."employees"',
    ),
    "missing_qualified_column": Expected(
        "missing_column", "database", ('Did you mean "salary"',), line=3, marked="    e.salry"
    ),
    "missing_relation": Expected(
        "missing_relation", "database", ("Did you mean 'stg_payroll'", "dbt-relay run --select +stg_payroll"), line=2,
        marked="from main.stg_payrol",
    ),
    "missing_schema": Expected(
        "missing_schema", "database", ("create schema no_such_schema",), line=1,
        marked="select * from no_such_schema.payroll",
    ),
    "missing_source_table": Expected(
        "missing_relation", "database", ("source hr.timesheets",), line=1,
        marked='select * from "errors"."main"."timesheets"',
    ),
    "not_null_violation": Expected("constraint_violation", "contract", ("salary is null",)),
    "out_of_range": Expected("out_of_range", "database", ("wider type",)),
    "python_bad_return": Expected("python_model_error", "python_model", ("python_bad_return.py",)),
    "python_error": Expected("python_model_error", "python_model", ("python_error.py at line 4",), line=4),
    "python_error_in_jinja": Expected("compilation_error", "compilation", ("python_error_in_jinja.sql",)),
    "python_missing_package": Expected(
        "python_missing_package", "python_model", ("pip install no_such_package",), line=3
    ),
    "python_sql_error": Expected("python_model_error", "python_model", ('Did you mean "salary"', "line 3"), line=3),
    "ragged": Expected("seed_error", "database", ("seeds/ragged.csv, line 3",), line=3),
    "bad_types": Expected(
        "seed_error", "database", ("'ninety' in column salary", "seeds/bad_types.csv, line 3"), line=3
    ),
    "raised_error": Expected("compilation_error", "compilation", ("raised_error.sql",)),
    "scalar_subquery": Expected("cardinality_violation", "database", ("one row",)),
    "snapshot_missing_key": Expected("snapshot_error", "snapshot", ('Did you mean "employee_id"',)),
    "snapshot_missing_updated_at": Expected("snapshot_error", "snapshot", ('Did you mean "updated_at"',)),
    "snapshot_over_table": Expected("snapshot_error", "snapshot", ("not created by a snapshot", "dbt_valid_from")),
    "syntax_error": Expected(
        "syntax_error", "database", ("just before '.'",), line=4, marked='form "errors"."main"."employees"'
    ),
    "type_mismatch": Expected(
        "type_mismatch", "database", ("'Ada' in column name",), line=3,
        marked="    cast(name as integer) as name_number",
    ),
    "type_operator": Expected("type_mismatch", "database", ("Cast one side",), line=3, marked="where updated_at > 5"),
    "undefined_macro": Expected("undefined_macro", "compilation", ("macro annualise_salry",)),
    "undefined_package_macro": Expected("undefined_macro", "compilation", ("packages.yml", "dbt-relay deps")),
    "undefined_variable": Expected(
        "undefined_variable", "compilation", ("""--vars '{"simulation_year": "<value>"}'""",)
    ),
    "unique_violation": Expected("constraint_violation", "contract", ("occurs more than once",)),
}  # fmt: skip
"""Expected classification by node, on DuckDB."""

_NO_PYTHON = Expected("unsupported_language", "configuration", ("in sql",))
ON_POSTGRES = {
    **NODES,
    "adapter_macro_query": Expected("missing_column", "database", ("show --select employees",)),
    "bad_types": Expected("seed_error", "database", ("Correct 'ninety'", "seeds/bad_types.csv")),
    "division_by_zero": Expected("division_by_zero", "database", ("nullif",)),
    "duplicate_merge_key": Expected("cardinality_violation", "database", ("same unique_key",)),
    "errors_missing_column": Expected(
        "test_errored", "database", ('Did you mean "employee_id"',), line=7, marked="select employe_id"
    ),
    "errors_singular": Expected(
        "test_errored", "database", ('Did you mean "salary"',), line=1,
        marked='select * from "{db}"."errors"."roster" where salry > 80000',
    ),
    "missing_function": Expected(
        "missing_function", "database", ("cast its arguments",), line=1,
        marked='select anualise(salary) as yearly from "{db}"."errors"."employees"',
    ),
    "missing_relation": Expected(
        "missing_relation", "database", ("dbt-relay run --select +stg_payroll",), line=2, marked="from errors.stg_payrol"
    ),
    "missing_schema": Expected(
        "missing_relation", "database", ("payroll",), line=1, marked="select * from no_such_schema.payroll"
    ),
    "missing_source_table": Expected(
        "missing_relation", "database", ("source hr.timesheets",), line=1,
        marked='select * from "{db}"."errors"."timesheets"',
    ),
    "python_bad_return": _NO_PYTHON,
    "python_error": _NO_PYTHON,
    "python_missing_package": _NO_PYTHON,
    "python_sql_error": _NO_PYTHON,
    "snapshot_missing_key": Expected("snapshot_error", "snapshot", ("show --select employees",)),
    "snapshot_missing_updated_at": Expected("snapshot_error", "snapshot", ("show --select employees",)),
    "syntax_error": Expected(
        "syntax_error", "database", ("just before '.'",), line=4, marked='form "{db}"."errors"."employees"'
    ),
    "type_mismatch": Expected("type_mismatch", "database", ("'Ada'",)),
}  # fmt: skip
"""The same on Postgres, whose errors have other details, and which rejects a division by zero."""


@pytest.fixture(scope="module")
def built_on_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """`dbt build` of project `errors`."""
    project = copy_project("errors", tmp_path_factory.mktemp("duckdb") / "errors")
    seed = {"name": "seed", "project": str(project), "args": ["seed", "--select", "employees"]}
    return run_dbt([seed, {"name": "build", "project": str(project), "args": ["build"]}])["build"]


@pytest.mark.parametrize("node", sorted(NODES))
def test_node_on_duckdb(built_on_duckdb: Outcome, node: str) -> None:
    failure = built_on_duckdb.of(node)
    info = classified_from_text_too(failure)
    NODES[node].check(info)
    assert (info.node, info.file, info.failures) == (failure.node, failure.file, failure.failures)


def test_every_failed_node_is_in_the_table(built_on_duckdb: Outcome) -> None:
    failed = {failure.node: failure for failure in built_on_duckdb.failures}
    assert len(failed) == len(NODES)
    assert not [node for node in failed if not any(name in node.split(".") for name in NODES)]


def test_first_failure_is_classified_from_the_console_of_a_build(built_on_duckdb: Outcome) -> None:
    first = built_on_duckdb.failures[0]
    info = classify_text(built_on_duckdb.console, "", built_on_duckdb.return_code, adapter="duckdb")
    assert info.code == classify(first).code
    assert info.message == classify(first).message
    assert info.file == first.file


@pytest.fixture(scope="module")
def postgres_with_schema(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def built_on_postgres(
    postgres_with_schema: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """`dbt build` of project `errors`, and a second run of its incremental merge."""
    project = str(copy_project("errors", tmp_path_factory.mktemp("postgres") / "errors"))
    env = {**postgres_with_schema.env, "RELAY_TEST_TARGET": "postgres"}
    commands = {
        "seed": ["seed", "--select", "employees"],
        "build": ["build"],
        "again": ["run", "--select", "duplicate_merge_key"],
    }
    jobs = [{"name": name, "project": project, "args": args, "env": env} for name, args in commands.items()]
    outcomes = run_dbt(jobs)
    outcomes["build"].failures += outcomes["again"].failures
    return outcomes["build"]


@pytest.mark.postgres
@pytest.mark.parametrize("node", sorted(ON_POSTGRES))
def test_node_on_postgres(
    built_on_postgres: Outcome, postgres_with_schema: PostgresDatabase, node: str
) -> None:
    expected = ON_POSTGRES[node]
    expected = msgspec.structs.replace(
        expected, marked=expected.marked.replace("{db}", postgres_with_schema.dbname)
    )
    expected.check(classified_from_text_too(built_on_postgres.of(node)))


# failures of the warehouse: DuckDB


_SORT_MUCH = "md5(i::varchar) as a, i from range(3000000) t(i) order by a"


def _trouble(
    name: str, project: Path, target: str = "duckdb", *before: str, body: str = "1 as id", **env: str
) -> dict[str, Any]:
    """Job that runs the model of project `trouble` after the SQL in `before`."""
    given = {"RELAY_TEST_TARGET": target, "RELAY_TEST_BODY": body, "RELAY_TEST_BEFORE": json.dumps(before)}
    return {"name": name, "project": str(project), "args": ["run"], "env": {**given, **env}}


def _of_a_newer_duckdb(path: Path) -> None:
    """Write a database file with an unknown storage version and a valid checksum in its header.

    The header is the first block of 4 KiB: checksum, magic word, version. The checksum is computed as in DuckDB
    (src/common/checksum.cpp).
    """
    duckdb.connect(str(path)).close()
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, 12, 9999)
    checksum = 5381
    for (word,) in struct.iter_unpack("<Q", content[8:4096]):
        checksum ^= (word * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    struct.pack_into("<Q", content, 0, checksum)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def duckdb_trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("trouble")
    project, errors = (copy_project(name, folder / name) for name in ("trouble", "errors"))
    files = {name: folder / f"{name}.duckdb" for name in ("plain", "newer", "locked", "garbage")}
    _of_a_newer_duckdb(files["newer"])
    files["garbage"].write_text("this is no database\n" * 1000)
    hold = (
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(files["locked"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        plain = {"project": str(errors), "env": {"RELAY_TEST_DUCKDB": str(files["plain"])}}
        outcomes = run_dbt([
            _trouble("out_of_memory", project, "duckdb_small", body=_SORT_MUCH),
            _trouble("disk_full", project, "duckdb_small", body=_SORT_MUCH, RELAY_TEST_MEMORY="60MB",
                     RELAY_TEST_TEMP=str(folder / "spill")),
            {**plain, "name": "unbuilt", "args": ["run", "--select", "reads_unbuilt"]},
            {**plain, "name": "first", "args": ["run", "--select", "schema_change"]},
            {**plain, "name": "schema_change",
             "args": ["run", "--select", "schema_change", "--vars", "{add_column: true}"]},
            {**plain, "name": "start_hook", "args": ["run", "--select", "days", "--vars", "{break_start_hook: true}"]},
            {**plain, "name": "end_hook", "args": ["run", "--select", "days", "--vars", "{break_end_hook: true}"]},
            {**plain, "name": "seed", "args": ["seed", "--select", "employees"]},
            {**plain, "name": "stale", "args": ["source", "freshness"]},
            _trouble("read_only", project, "duckdb_read_only", RELAY_TEST_DUCKDB=str(files["plain"])),
            _trouble("no_file", project, body="* from read_csv('nowhere/*.csv')"),
            _trouble("no_folder", project, RELAY_TEST_DUCKDB=str(folder / "nowhere" / "x.duckdb")),
            _trouble("newer", project, RELAY_TEST_DUCKDB=str(files["newer"])),
            _trouble("garbage", project, RELAY_TEST_DUCKDB=str(files["garbage"])),
            _trouble("locked", project, RELAY_TEST_DUCKDB=str(files["locked"])),
        ])  # fmt: skip
        assert f"(PID {holder.pid})" in outcomes["locked"].of().message
        yield outcomes
        assert holder.stdin is not None
        holder.stdin.close()


DUCKDB_TROUBLE = {
    "unbuilt": Expected(
        "missing_relation", "database", ("dbt-relay run --select +stg_payroll",), line=2,
        marked='    select * from "plain"."main"."stg_payroll"',
    ),
    "schema_change": Expected(
        "schema_change", "contract", ("new: extra", "dbt-relay run --full-refresh --select schema_change")
    ),
    "start_hook": Expected(
        "hook_failed", "database", ("dbt_project.yml, hook on-run-start 2", 'Did you mean "id"'), line=1,
        marked="select no_such_column_for_hook from (select 1 as id) as t",
    ),
    "end_hook": Expected(
        "hook_failed", "database", ("dbt_project.yml, hook on-run-end 1", "no_such_table_for_hook"), line=1,
        marked="select * from no_such_table_for_hook",
    ),
    "stale": Expected(
        "source_stale", "source_freshness", ("dbt-relay source freshness --select source:hr.employees",)
    ),
    "read_only": Expected("read_only", "permission", ("access_mode: read_only",)),
    "out_of_memory": Expected("out_of_memory", "resource", ("memory_limit",)),
    "disk_full": Expected("disk_full", "resource", ("max_temp_directory_size",)),
    "no_file": Expected("missing_file", "configuration", ("nowhere/*.csv",)),
    "no_folder": Expected("missing_file", "configuration", ("Create the folder of", "x.duckdb")),
    "newer": Expected("incompatible_database_version", "configuration", ("newer duckdb", "storage version 9999")),
    "garbage": Expected("invalid_database_file", "configuration", ("garbage.duckdb",)),
    "locked": Expected("duckdb_file_locked", "lock_contention", ("PID ", "locked.duckdb", "ps -p "), retryable=True),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DUCKDB_TROUBLE))
def test_warehouse_failure_on_duckdb(duckdb_trouble: dict[str, Outcome], name: str) -> None:
    outcome = duckdb_trouble[name]
    DUCKDB_TROUBLE[name].check(classified_from_text_too(outcome.of()))
    from_console = classify_text(outcome.console, "", outcome.return_code)
    assert (from_console.code, from_console.retryable) == (
        DUCKDB_TROUBLE[name].code,
        DUCKDB_TROUBLE[name].retryable,
    )


# failures of the warehouse: Postgres


def _with_other_sessions(database: PostgresDatabase, jobs: list[dict[str, Any]]) -> dict[str, Outcome]:
    """Run the jobs while two other sessions cause conflicts with dbt.

    Each job waits for an advisory lock whose number identifies the job.
    """
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(contextlib.closing(database.connect())) for _ in range(2))
        two.autocommit = False
        keeper, locker = one.cursor(), two.cursor()
        for number in (1, 2, 3, 5):
            keeper.execute("select pg_advisory_lock(%s)", (number,))
        locker.execute("set deadlock_timeout = '60s'; lock table second")
        process = start_dbt(jobs)
        stack.callback(process.kill)

        def wait_for_backend(job: int) -> int:
            """Wait until dbt waits for this advisory lock (0: for table `second`); return the pid of its backend."""
            wanted = f"locktype = 'advisory' and objid = {job}" if job else "relation = 'second'::regclass"
            query = f"select pid from pg_locks where {wanted} and not granted"
            wait_until(lambda: process.poll() is not None or database.query(query), 90)
            found = database.query(query)
            assert found, outcomes_of(process)
            return int(found[0][0])

        keeper.execute("select pg_cancel_backend(%s)", (wait_for_backend(1),))
        keeper.execute("select pg_terminate_backend(%s)", (wait_for_backend(2),))
        wait_for_backend(3)
        keeper.execute("update counters set n = n + 1; select pg_advisory_unlock(3)")
        wait_for_backend(0)
        locker.execute("lock table first")  # completes the deadlock; dbt's backend detects it first
        return outcomes_of(process)


@pytest.fixture(scope="module")
def postgres_trouble(
    postgres_with_schema: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Outcome of each command, each with another failure."""
    database = postgres_with_schema
    project = copy_project("trouble", tmp_path_factory.mktemp("postgres") / "trouble")
    database.query(
        "create table counters (n int); insert into counters values (1); create table first (n int);"
        "create table second (n int); create role poor login password 'poor';"
        "create role crowd login password 'crowd' connection limit 0; create schema poor authorization poor"
    )

    def job(name: str, *before: str, body: str = "1 as id", **env: str) -> dict[str, Any]:
        return _trouble(name, project, "postgres", *before, body=body, **{**database.env, **env})

    try:
        return _with_other_sessions(database, [
            job("cancelled", "select pg_advisory_lock(1)"),
            job("terminated", "select pg_advisory_lock(2)"),
            job("serialization", "set transaction isolation level repeatable read", "select count(*) from counters",
                "select pg_advisory_lock(3)", "update counters set n = n + 10"),
            job("deadlock", "set deadlock_timeout = '1s'", "lock table first", "lock table second"),
            job("lock_timeout", "set lock_timeout = '100ms'", "select pg_advisory_lock(5)"),
            job("lock_refused", "lock table second nowait"),
            job("statement_timeout", "set statement_timeout = '100ms'", "select pg_sleep(60)"),
            job("temporary_files", "set temp_file_limit = '1MB'", "set work_mem = '64kB'",
                body="i, md5(i::text) as a from generate_series(1, 200000) as i order by 2"),
            job("read_only", "set transaction read only"),
            job("raised", "do $$ begin raise exception 'headcount went negative'; end $$"),
            job("permission", body="* from public.counters", PGUSER="poor", DBT_ENV_SECRET_PG_PASSWORD="poor",
                RELAY_TEST_SCHEMA="poor"),
            job("password", DBT_ENV_SECRET_PG_PASSWORD="wrong"),
            job("no_database", PGDATABASE="nowhere"),
            job("refused", PGPORT="1"),
            job("unknown_host", PGHOST="warehouse.invalid"),
            job("crowded", PGUSER="crowd", DBT_ENV_SECRET_PG_PASSWORD="crowd"),
        ])  # fmt: skip
    finally:
        database.query("drop owned by poor; drop role poor; drop role crowd")


POSTGRES_TROUBLE = {
    "cancelled": Expected("query_canceled", "cancelled", ("dbt-relay retry",)),
    "terminated": Expected("connection_lost", "connection", ("log",), retryable=True),
    "serialization": Expected("serialization_failure", "lock_contention", ("at a time",), retryable=True),
    "deadlock": Expected("deadlock", "lock_contention", ("one after the other",), retryable=True),
    "lock_timeout": Expected("lock_timeout", "lock_contention", ("pg_locks",), retryable=True),
    "lock_refused": Expected("lock_timeout", "lock_contention", ("the lock on second",), retryable=True),
    "statement_timeout": Expected("statement_timeout", "timeout", ("statement_timeout",)),
    "temporary_files": Expected("disk_full", "resource", ("temp_file_limit",)),
    "read_only": Expected("read_only", "permission", ("for writing",)),
    "raised": Expected("raised_error", "database", ("headcount went negative",)),
    "permission": Expected("permission_denied", "permission", ("grant select on counters",)),
    "password": Expected("authentication_failed", "permission", ('user "postgres"',)),
    "no_database": Expected("missing_database", "configuration", ("Create database nowhere",)),
    "refused": Expected("connection_refused", "connection", ("127.0.0.1, port 1",), retryable=True),
    "unknown_host": Expected("unknown_host", "connection", ("warehouse.invalid",)),
    "crowded": Expected("too_many_connections", "connection", ("threads",), retryable=True),
}


@pytest.mark.postgres
@pytest.mark.parametrize("name", sorted(POSTGRES_TROUBLE))
def test_warehouse_failure_on_postgres(postgres_trouble: dict[str, Outcome], name: str) -> None:
    outcome = postgres_trouble[name]
    failure = outcome.of()
    info = classify(failure)
    POSTGRES_TROUBLE[name].check(info)
    if name != "raised":  # a user-defined exception can only be classified by its class
        assert classified_from_text_too(failure) == info
    from_console = classify_text(outcome.console, "", outcome.return_code, adapter="postgres")
    assert from_console.retryable == info.retryable


# errors that end a whole command

_BASE = {
    "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
    "profiles.yml": "shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb, path: ':memory:', threads: 1}\n",
    "models/customers.sql": "select 1 as id\n",
    "models/orders.sql": "select * from {{ ref('customers') }}\n",
}


class Broken(msgspec.Struct, frozen=True):
    """A project on which dbt fails: `files` are written over `_BASE`."""

    files: dict[str, str]
    args: tuple[str, ...]
    expected: Expected
    file: str | None = None


def _model(sql: str) -> dict[str, str]:
    return {"models/orders.sql": sql}


def _yaml(text: str) -> dict[str, str]:
    return {"models/shop.yml": text}


_RUN = ("run",)
BROKEN = {
    "missing_ref": Broken(
        _model("select * from {{ ref('custmers') }}"), _RUN,
        Expected("missing_ref", "compilation", ("'custmers'", "models/orders.sql")), "models/orders.sql",
    ),
    "disabled_ref": Broken(
        {"models/customers.sql": "{{ config(enabled=false) }} select 1 as id"}, _RUN,
        Expected("disabled_ref", "compilation", ("Enable customers",)), "models/orders.sql",
    ),
    "missing_source": Broken(
        {**_model("select * from {{ source('raw', 'ordrs') }}"), **_yaml("sources: [{name: raw, tables: [{name: orders}]}]")},
        _RUN, Expected("missing_source", "compilation", ("source('raw', 'ordrs')",)), "models/orders.sql",
    ),
    "jinja_print": Broken(
        _model("select\n  {{ ref('customers')\nfrom x\n"), _RUN,
        Expected("jinja_syntax", "compilation", ("models/orders.sql, line 3", "'}}'"), line=3), "models/orders.sql",
    ),
    "jinja_block": Broken(
        _model("select 1\n{% if true %}\nfrom x\n"), _RUN,
        Expected("jinja_syntax", "compilation", ("{% endif %}",), line=2), "models/orders.sql",
    ),
    "jinja_tag": Broken(
        _model("select 1\n\n{% esle %}\n"), _RUN,
        Expected("jinja_syntax", "compilation", ("Did you mean 'else'",), line=3), "models/orders.sql",
    ),
    "macro_arguments": Broken(
        {"macros/m.sql": "{% macro a(x) %}{{ x }}{% endmacro %}", **_model("select {{ a(1, 2) }} as x")}, _RUN,
        Expected("macro_arguments", "compilation", ("Call a with",)), "models/orders.sql",
    ),
    "duplicate_name": Broken(
        {"models/more/orders.sql": "select 1 as id"}, _RUN,
        Expected("duplicate_name", "compilation", ("models/more/orders.sql or models/orders.sql",)),
    ),
    "warning_as_error": Broken(
        _yaml("models: [{name: nope}]"), ("--warn-error", "run"),
        Expected("warning_as_error", "compilation", ("--warn-error",)),
    ),
    "yaml_indent": Broken(
        _yaml("models:\n  - name: orders\n   description: x\n"), _RUN,
        Expected("yaml_syntax", "parsing", ("shop.yml near line 3", "indentation"), line=3), "shop.yml",
    ),
    "yaml_tab": Broken(
        _yaml("models:\n\t- name: orders\n"), _RUN,
        Expected("yaml_syntax", "parsing", ("no tabs",), line=2), "shop.yml",
    ),
    "invalid_properties": Broken(
        _yaml("models:\n  - nme: orders\n"), _RUN,
        Expected("invalid_properties", "parsing", ("does not have a name",)), "models/shop.yml",
    ),
    "python_syntax": Broken(
        {"models/p.py": "def model(dbt, session):\n    return (\n"}, _RUN,
        Expected("python_syntax", "parsing", ("Correct the Python",), line=2),
    ),
    "cycle": Broken(
        {"models/customers.sql": "select * from {{ ref('orders') }}"}, _RUN,
        Expected("dependency_cycle", "dependency", ("orders", "customers", " → ")),
    ),
    "deps": Broken(
        {"packages.yml": "packages:\n  - package: dbt-labs/dbt_utils\n    version: 1.1.1\n"}, _RUN,
        Expected("deps_not_installed", "dependency", ("`dbt-relay deps`",)), "packages.yml",
    ),
    "missing_package": Broken(
        {"packages.yml": "packages:\n  - local: ../nowhere\n"}, ("deps",),
        Expected("missing_package", "dependency", ("packages.yml", "dbt-relay deps")),
    ),
    "unreachable_package": Broken(
        {"packages.yml": "packages:\n  - git: https://user:hidden@127.0.0.1:1/x.git\n    revision: main\n"}, ("deps",),
        Expected("package_unreachable", "dependency", ("https://user:hidden@127.0.0.1:1/x.git",), retryable=True),
    ),
    "unknown_selector": Broken(
        {"selectors.yml": "selectors: [{name: nightly, definition: {method: tag, value: n}}]"},
        ("run", "--selector", "nightli"),
        Expected("unknown_selector", "selection", ("Did you mean 'nightly'?",)),
    ),
    "unknown_method": Broken(
        {}, ("run", "--select", "tagg:x"), Expected("invalid_selector", "selection", ("Did you mean 'tag'?",)),
    ),
    "no_state": Broken(
        {}, ("run", "--select", "state:modified"), Expected("missing_state", "usage", ("--state",)),
    ),
    "clone_without_state": Broken({}, ("clone",), Expected("missing_state", "usage", ("--state <folder>",))),
    "defer_without_state": Broken({}, ("run", "--defer"), Expected("missing_state", "usage", ("--state <folder>",))),
    "empty_state": Broken(
        {"state/readme": ""}, ("compile", "--defer", "--state", "state"),
        Expected("missing_state", "usage", ("no manifest.json in", "state")),
    ),
    "result_without_state": Broken(
        {}, ("run", "--select", "result:error"), Expected("missing_state", "usage", ("run_results.json",)),
    ),
    "freshness_without_state": Broken(
        {}, ("build", "--select", "source_status:fresher+"), Expected("missing_state", "usage", ("sources.json",)),
    ),
    "state_of_another_dbt": Broken(
        {"state/manifest.json": '{"metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v99.json"}}'},
        ("run", "--select", "state:modified", "--state", "state"),
        Expected("incompatible_state", "usage", ("v99",)),
    ),
    "show_nothing": Broken({}, ("show",), Expected("usage_error", "usage", ("show --help",))),
    "select_and_inline": Broken(
        {}, ("compile", "--select", "orders", "--inline", "select 1"), Expected("usage_error", "usage", ("--help",)),
    ),
    "malformed_source_selector": Broken(
        {}, ("run", "--select", "source:a.b.c.d"), Expected("invalid_selector", "selection", ("a.b.c.d",)),
    ),
    "nothing_to_retry": Broken({}, ("retry",), Expected("missing_run_results", "usage", ("target",))),
    "invalid_project": Broken(
        {"dbt_project.yml": "name: shop\nprofile: shop\nmodel-paths: models\n"}, _RUN,
        Expected("invalid_config", "configuration", ("model-paths in dbt_project.yml",)), "dbt_project.yml",
    ),
    "invalid_config": Broken(
        _model("{{ config(enabled='maybe') }} select 1 as id"), _RUN,
        Expected("invalid_config", "configuration", ("enabled", "boolean")),
    ),
    "missing_materialization": Broken(
        _model("{{ config(materialized='tabel') }} select 1 as id"), _RUN,
        Expected("missing_materialization", "compilation", ("Did you mean 'table'?",)), "models/orders.sql",
    ),
    "misspelt_test": Broken(
        _yaml("models: [{name: orders, columns: [{name: id, data_tests: [uniqe]}]}]"), ("test",),
        Expected("undefined_macro", "compilation", ("Did you mean 'unique'?",)), "models/shop.yml",
    ),
    "env_var": Broken(
        _model("select '{{ env_var('SIM_REGION') }}' as region"), _RUN,
        Expected("env_var_missing", "configuration", ("export SIM_REGION=",)),
    ),
    "no_profile": Broken(
        {"dbt_project.yml": "name: shop\nprofile: shp\n"}, _RUN,
        Expected("no_profile", "configuration", ("profile 'shp'", "profiles.yml")),
    ),
    "no_target": Broken(
        {}, ("run", "--target", "dve"), Expected("no_target", "configuration", ("`--target dev`",)),
    ),
    "no_adapter": Broken(
        {"profiles.yml": "shop: {target: dev, outputs: {dev: {type: snowflake}}}"}, _RUN,
        Expected("missing_adapter", "configuration", ("pip install dbt-snowflake",)),
    ),
    "incomplete_profile": Broken(
        {"profiles.yml": "shop: {target: dev, outputs: {dev: {type: postgres, host: x}}}"}, _RUN,
        Expected("invalid_profile", "configuration", ("target dev of profile shop", "required")),
    ),
    "dbt_version": Broken(
        {"dbt_project.yml": _BASE["dbt_project.yml"] + "require-dbt-version: '>=3.0.0'\n"}, _RUN,
        Expected("dbt_version_mismatch", "configuration", (">=3.0.0",)), "dbt_project.yml",
    ),
    "snapshot_without_updated_at": Broken(
        {"snapshots/s.yml": "snapshots: [{name: s, relation: ref('orders'), config: {strategy: timestamp, unique_key: id}}]"},
        ("snapshot",), Expected("snapshot_error", "snapshot", ("updated_at",)),
    ),
    "unknown_option": Broken({}, ("run", "--selct", "x"), Expected("unknown_option", "usage", ("--help",))),
    "unknown_command": Broken({}, ("rnu",), Expected("unknown_command", "usage", ("--help",))),
    "vars": Broken({}, ("run", "--vars", "{a: "), Expected("invalid_vars", "usage", ("YAML or JSON",))),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    jobs = []
    for name, broken in BROKEN.items():
        project = tmp_path_factory.mktemp(name, numbered=False)
        for path, text in {**_BASE, **broken.files}.items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_text(text)
        jobs.append({"name": name, "project": str(project), "args": list(broken.args)})
    return run_dbt(jobs)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_command(broken_commands: dict[str, Outcome], name: str) -> None:
    broken, failure = BROKEN[name], broken_commands[name].of()
    info = classified_from_text_too(failure)
    broken.expected.check(info)
    assert info.file == broken.file
