"""The broken project: failures of every kind at every stage, and the nodes that dbt skips."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.parity.harness import Dbt, Pair, edit, play, sql

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(900)]

DuckDBPair = Callable[..., Pair]


CANCELLED = ("CANCEL query",)
"""Start of the line for each open connection of dbt's single process when it fails fast."""


def with_broken(command: str, *broken: str, exit_code: int = 1, **more: Any) -> Dbt:
    words = [*command.split(), "--vars", json.dumps({"broken": list(broken)})]
    return Dbt(words, exit_code=exit_code, **more)


def test_nodes(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("broken"),
        "broken nodes",
        with_broken("build", exit_code=0),
        with_broken("build --full-refresh", "seed"),
        with_broken("build", "view"),
        with_broken("build", "table_compile"),
        with_broken("build", "ephemeral_compile"),
        with_broken("run", "ephemeral_compile"),
        with_broken("build", "pre_hook", "contract"),
        with_broken("build", "post_hook", "schema_change"),
        with_broken("build", "snapshot"),
        with_broken("run", "table"),
        with_broken("run", "table", "batch"),
    )


def test_tests(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("broken"),
        "broken tests",
        with_broken("build", "test"),
        with_broken("build", "test", "test_warns", exit_code=0),
        with_broken("test", "test", "singular_test", "unit_test"),
        with_broken("build", "unit_test"),
        with_broken("build", "unit_test_error"),
        with_broken("build", "singular_test_compile"),
        with_broken("build --select solid+", "view", "unit_test"),
    )


def test_batches(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("broken"),
        "broken batches",
        with_broken("build", "batch"),
        with_broken("retry", "batch"),
        with_broken("retry", exit_code=0),
        with_broken("build --select batches+", "batches"),
        with_broken("retry", exit_code=0),
    )


def test_hooks(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("broken"),
        "broken hooks",
        with_broken("build", "on_run_start"),
        with_broken("build", "on_run_start_compile", exit_code=2),
        with_broken("build", "on_run_end"),
        with_broken("build", "on_run_end_compile", exit_code=2),
        with_broken("run", "on_run_start", "on_run_end", "view"),
        edit("dbt_project.yml", "skip_nodes_if_on_run_start_fails: false", "skip_nodes_if_on_run_start_fails: true"),
        with_broken("build --exclude exposure:screen", "on_run_start"),  # with an exposure, dbt itself fails here
        with_broken("run", "on_run_start"),
        with_broken("retry", exit_code=0),
    )  # fmt: skip


def test_failures_before_the_first_node(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("broken"),
        "early ends",
        with_broken("build --fail-fast", "seed", skip_lines=CANCELLED),
        with_broken("build --fail-fast", "view", skip_lines=CANCELLED),
        with_broken("retry", exit_code=0),
        with_broken("build --fail-fast --select +solid", "unit_test", skip_lines=CANCELLED),
        edit("models/after_kept.sql", "ref('kept')", "ref('nowhere')"),
        with_broken("build", exit_code=2),
        edit("models/after_kept.sql", "ref('nowhere')", "ref('kept')"),
        with_broken("build --select bad:method", exit_code=2),
        with_broken("build --selector none", exit_code=2),
        with_broken("build --target nowhere", exit_code=2),
        sql("drop table main.kept"),
        sql("create table main.kept as select 1 as strange"),
        with_broken("build"),
    )
