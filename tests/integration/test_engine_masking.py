"""Masking in runs: credentials in connection errors are masked, data is not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dbt.version import installed

from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.postgres_server import PostgresDatabase
from tests.support.processes import without_coverage
from workers.contract.events import LINE, Event
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse
from workers.verify.rules import Rules
from workers.verify.sides import dbt_program

PLANTED = "pl4nted-v4lue"

Copy = Callable[..., Path]


@pytest.fixture
def small(copy_project: Copy, duckdb_file: Path) -> Iterator[Path]:
    yield copy_project("small")
    close_warehouse()


def plain_dbt(project: Path, *args: str) -> list[str]:
    """Run plain dbt; return its console lines."""
    done = subprocess.run(
        [*dbt_program(), "--no-use-colors", *args, "--target-path", "plain"],
        cwd=project, env=without_coverage(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def comparable(lines: list[str], project: Path) -> list[str]:
    """Lines up to a traceback (it contains functions of dbt-relay), without parts that differ from run to run."""
    rules = Rules(str(project))
    end = next((number for number, line in enumerate(lines) if "Traceback (most" in line), len(lines))
    shown = [rules.line(line).replace("plain/", "target/").rstrip() for line in lines[:end]]
    return [line for line in shown if line not in {"", "<time>"} and "partial parsing" not in line]


def stored_text(ran: Ran) -> str:
    """Everything that a run stores in the ledger, as text."""
    results = [outcome.result for outcome in ran.outcomes.values()]
    return repr(msgspec.to_builtins([ran.finished, results, ran.events], enc_hook=str))


CONNECTIONS = {
    "the token of an attached path": 'attach: [{path: "/no/such/x.duckdb?token=PLANTED"}]',
    "a secret": 'secrets: [{type: http, "bearer-token": PLANTED}]',
}


@pytest.mark.parametrize("setting", CONNECTIONS.values(), ids=CONNECTIONS)
def test_credentials_in_connection_errors_are_masked_and_other_lines_equal_dbts(
    small: Path, setting: str
) -> None:
    profiles = small / "profiles.yml"
    setting = setting.replace("PLANTED", PLANTED)
    profiles.write_text(profiles.read_text().replace("schema: main\n", f"schema: main\n      {setting}\n", 1))
    plain_lines = plain_dbt(small, "run", "--select", "stg_orders")
    # the driver repeats the value; with dbt-duckdb 1.10 only that of a secret
    assert any(PLANTED in line for line in plain_lines) or installed.minor == "10", plain_lines
    ran = drive(Engine(Shared()), spec_for(small, "--no-use-colors", "run", "--select", "stg_orders"))
    assert PLANTED not in stored_text(ran)
    masked = [line.replace(PLANTED, "*****") for line in plain_lines]
    assert comparable(ran.lines, small) == comparable(masked, small)


def test_connection_test_and_debug_lines_are_masked(small: Path) -> None:
    profiles = small / "profiles.yml"
    setting = CONNECTIONS["a secret"].replace("PLANTED", PLANTED)
    profiles.write_text(profiles.read_text().replace("schema: main\n", f"schema: main\n      {setting}\n", 1))
    events: list[Event] = []
    finished = Engine(Shared()).command(spec_for(small, "--debug", "debug"), "debug", events.append)
    assert finished.error is not None
    assert finished.error.message.endswith("does not exist!")
    text = "\n".join(event.text for event in events if event.kind == LINE)
    assert "bearer-token '*****'" in text
    assert PLANTED not in text + repr(finished)


@pytest.fixture
def analytics(
    postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresDatabase]:
    """A role whose password equals the name of the schema."""
    role = f"role_{postgres_database.dbname}"
    postgres_database.query(f"create role {role} login password 'analytics'")
    postgres_database.query(f"grant create on database {postgres_database.dbname} to {role}")
    for name, value in {
        "PGUSER": role,
        "RELAY_TEST_SCHEMA": "analytics",
        "RELAY_TEST_TARGET": "postgres",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DBT_ENV_SECRET_PG_PASSWORD")
    yield postgres_database
    close_warehouse()
    postgres_database.query(f"drop owned by {role} cascade")
    postgres_database.query(f"drop role {role}")


@pytest.mark.postgres
def test_password_equal_to_the_schema_name_is_not_masked(small: Path, analytics: PostgresDatabase) -> None:
    profiles = small / "profiles.yml"
    profiles.write_text(re.sub(r"password: .*", "password: analytics", profiles.read_text()))
    project = small / "dbt_project.yml"
    project.write_text(
        project.read_text()
        + '\n  - "create table {{ target.schema }}.kept as {% for each in results if each.node.compiled_code %}'
        "select $q${{ each.node.compiled_code }}$q$ as code union all {% endfor %} select 'analytics'\"\n"
    )
    (small / "models" / "missing.sql").write_text("select * from {{ target.schema }}.nothing")
    ran = drive(Engine(Shared()), spec_for(small, "run", "--select", "orders_by_year", "missing"))
    assert "*****" not in stored_text(ran)
    missing = ran.outcomes["model.small.missing"].result.error
    assert missing is not None
    assert "analytics.nothing" in missing.message
    entries: list[dict[str, Any]] = (ran.finished.run_results or {})["results"]
    codes = [entry["compiled_code"] or "" for entry in entries]
    assert any("analytics" in code for code in codes)
    kept = [code for (code,) in analytics.query("select code from analytics.kept")]
    assert len(kept) > 2
    assert set(kept) <= {*codes, "analytics"}


@pytest.mark.postgres
def test_wrong_password_has_the_error_of_dbt(small: Path, analytics: PostgresDatabase) -> None:
    profiles = small / "profiles.yml"
    profiles.write_text(re.sub(r"password: .*", f"password: {PLANTED}", profiles.read_text()))
    plain_lines = plain_dbt(small, "run", "--select", "stg_orders")
    assert any("password authentication failed" in line for line in plain_lines), plain_lines
    ran = drive(Engine(Shared()), spec_for(small, "--no-use-colors", "run", "--select", "stg_orders"))
    assert comparable(ran.lines, small) == comparable(plain_lines, small)
    assert ran.finished.error is not None
    assert ran.finished.error.code == "authentication_failed"
    assert PLANTED not in stored_text(ran)
