"""The features project: most features of dbt, on DuckDB."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.parity.harness import Change, Dbt, Pair, edit, play, sql

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(900)]

DuckDBPair = Callable[..., Pair]


def keep(target: str, folder: str) -> Change:
    """Copy the artifacts of the last command, for ``--state``."""

    def make(side: object) -> None:
        project = side.project  # type: ignore[attr-defined]
        shutil.rmtree(project / folder, ignore_errors=True)
        (project / folder).mkdir()
        for name in ("manifest.json", "run_results.json", "sources.json"):
            if (project / target / name).exists():
                shutil.copy(project / target / name, project / folder / name)

    return Change(f"keep {target} as {folder}", make)


def test_repeated_builds(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "build again and again",
        Dbt("build"),
        sql("insert into main.raw_orders values (7, 3, date '2025-01-06', 3.5, 'paid')"),
        sql("update main.raw_orders set status = 'returned' where order_id = 2"),
        sql("delete from main.raw_orders where order_id = 4"),
        sql("delete from main.raw_customers where customer_id = 3"),
        Dbt("build --exclude resource_type:seed --vars '{region: all}'"),
        Dbt("build --full-refresh --vars '{region: all, with_status: true, with_optional: true}'"),
        Dbt("build --exclude resource_type:seed", env={"DBT_FEATURES_MOOD": "wild"}),
    )


def test_one_thread_has_the_same_order(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "one thread",
        Dbt("seed --threads 1", order=True),
        Dbt("run --threads 1"),
        Dbt("snapshot --threads 1", order=True),
        Dbt("test --threads 1", order=True),
    )


def test_one_thread_runs_models_in_the_same_order(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "order of models",
        Dbt("seed --threads 1"),
        Dbt("run --threads 1", order=True),
    )


def test_commands_that_follow_each_other(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "one command after the other",
        Dbt("seed"),
        Dbt("run"),
        Dbt("snapshot"),
        Dbt("test"),
        Dbt("run --vars '{with_status: true, region: south}'"),
        Dbt("test --vars '{broken_threshold: 1}' --select amount_thresholds amount_is_low", exit_code=1),
        Dbt("test --store-failures --select stg_orders", exit_code=0),
        Dbt("seed --full-refresh --select raw_orders"),
        Dbt("run --full-refresh --select appended merged+ never_refreshed"),
    )


def test_selection(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "selection",
        Dbt("build"),
        Dbt("build --select tag:nightly"),
        Dbt("build --selector nightly"),
        Dbt("build --select +customer_totals --exclude resource_type:test"),
        Dbt("build --select marts"),
        Dbt("run --select 1+daily_orders path:models/contracts"),
        Dbt("build --resource-type model --resource-type seed --select stg_orders+1"),
        Dbt("build --exclude-resource-type unit_test test --select stg_customers"),
        Dbt("test --select appended --indirect-selection cautious"),
        Dbt("test --select stg_orders --indirect-selection buildable"),
        Dbt("test --select 'test_type:unit'"),
        Dbt("build --select package:helpers dim_customer.v1"),
        Dbt("build --select exposure:weekly_report +exposure:weekly_report,group:finance"),
        Dbt("run --select no_such_model"),
        Dbt("run --select source:shop.rates+ --exclude '*'"),
        Dbt("run --select group:finance --cache-selected-only"),
        Dbt("run --select stg_orders appended --no-populate-cache"),
        Dbt("ls --select tag:staging --output json"),
        Dbt("ls --resource-type test --output name"),
    )


def test_time_and_size(duckdb_pair: DuckDBPair) -> None:
    days = "--event-time-start 2025-01-01 --event-time-end 2025-01-06"
    play(
        duckdb_pair("features"),
        "time and size",
        Dbt("build --empty --exclude resource_type:snapshot"),
        Dbt(f"build --exclude resource_type:snapshot --vars '{{batch_size: day}}' {days} --full-refresh"),
        Dbt(f"run --select daily_orders --vars '{{batch_size: day}}' {days}"),
        Dbt(
            """run --select +daily_orders --sample '{start: "2025-01-02", end: "2025-01-04"}' --vars '{batch_size: day}'"""
        ),
        Dbt("run --sample '{start: 2025-01-02, end: 2025-01-04}'", exit_code=2),  # dates instead of texts
        Dbt("run --event-time-start 2025-01-01", exit_code=2),
        Dbt("compile --event-time-start 2025-01-01", exit_code=2),
        Dbt("run --select daily_orders"),
    )


def test_states(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "states",
        Dbt("build"),
        keep("target", "state"),
        Dbt("seed --target duckdb_other"),
        edit("models/marts/customer_totals.sql", "coalesce(t.total, 0)", "coalesce(t.total, 0) + 1"),
        Dbt("build --select state:modified+ --state state --exclude resource_type:unit_test"),
        Dbt("run --target duckdb_other --select state:modified --state state --defer"),
        Dbt("run --target duckdb_other --select marts run_facts --state state --defer --favor-state"),
        Dbt("compile --target duckdb_other --select marts --state state --defer"),
        Dbt("test --target duckdb_other --select stg_customers --state state --defer"),
        Dbt("clone --target duckdb_other --select customer_totals stg_orders --state state"),
        Dbt("build --select result:warn --state state"),
        Dbt("ls --select result:warn --state target"),
        Dbt("source freshness"),
        keep("target", "state"),
        Dbt("build --select source_status:warn+ --state state"),
    )


def test_failures_on_purpose(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "failures on purpose",
        Dbt("build --select +stg_orders raw_customers --vars '{broken_threshold: 1}'", exit_code=1),
        Dbt("retry --vars '{broken_threshold: 1}'", exit_code=1),
        Dbt("retry --vars '{}'"),
        Dbt("--warn-error build --select stg_orders", exit_code=2),
        Dbt(["--warn-error-options", '{"error": ["NoNodesForSelectionCriteria"]}', "run", "--select", "nothing"],
            exit_code=2),
        # one node is ready at a time: dbt starts all ready nodes, even after a failure
        Dbt("build --threads 1 --fail-fast --indirect-selection empty --vars '{broken_threshold: 1}'"
            " --select raw_orders stg_orders amount_thresholds appended",
            exit_code=1, skip_lines=("CANCEL query",)),
        Dbt("run --vars '{on_schema_change: fail}' --select +merged"),
        Dbt("run --vars '{on_schema_change: fail, with_status: true}' --select merged+", exit_code=1),
    )  # fmt: skip


def test_commands_and_resources_other_than_nodes(duckdb_pair: DuckDBPair) -> None:
    play(
        duckdb_pair("features"),
        "commands",
        Dbt("deps"),
        Dbt("parse"),
        Dbt("build"),
        Dbt("compile"),
        Dbt("compile --select customer_totals"),
        Dbt(["show", "--inline", "select * from {{ ref('raw_orders') }} order by 1"]),
        Dbt("show --select customer_totals --limit 2"),
        Dbt(["run-operation", "add_order", "--args", "{order_id: 80, amount: 8.5}"]),
        Dbt("docs generate"),
        Dbt("source freshness"),
        Dbt("debug", skip_lines=("python path", "python version", "os info", "adapter version")),
    )
