"""Parity on Postgres, where two processes execute nodes at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.parity.harness import Dbt, Pair, edit, play, sql

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(900)]

PostgresPair = Callable[..., Pair]


def with_broken(command: str, *broken: str, exit_code: int = 1) -> Dbt:
    return Dbt([*command.split(), "--vars", json.dumps({"broken": list(broken)})], exit_code=exit_code)


def test_features(postgres_pair: PostgresPair) -> None:
    play(
        postgres_pair("features"),
        "features on PostgreSQL",
        Dbt("build"),
        sql("insert into main.raw_orders values (7, 3, date '2025-01-06', 3.5, 'paid')"),
        sql("delete from main.raw_customers where customer_id = 3"),
        Dbt("build --exclude resource_type:seed --vars '{region: all, with_status: true}'"),
        edit("models/marts/refreshed_totals.sql", "'columns': ['customer_id']", "'columns': ['total']"),
        edit("models/staging/stg_customers.sql", "select customer_id", "{{ config(materialized='table') }}\nselect customer_id"),
        Dbt("run"),
        sql("drop schema main_facts cascade"),
        sql("drop table main_marts.marts"),
        sql("create view main_marts.marts as select 1 as made_by_somebody_else"),
        Dbt("run"),
        Dbt("build --full-refresh"),
        Dbt("build --target postgres_other --exclude resource_type:snapshot"),
        Dbt("docs generate"),
        Dbt("source freshness"),
    )  # fmt: skip


def test_broken(postgres_pair: PostgresPair) -> None:
    play(
        postgres_pair("broken"),
        "broken on PostgreSQL",
        with_broken("build", exit_code=0),
        with_broken("build --full-refresh", "seed"),
        with_broken("build", "view"),
        with_broken("build", "ephemeral_compile"),
        with_broken("build", "pre_hook", "contract"),
        with_broken("build", "post_hook", "schema_change", "batch"),
        with_broken("retry", exit_code=0),
        with_broken("build", "test", "snapshot"),
        with_broken("build", "unit_test"),
        with_broken("build", "on_run_start"),
        with_broken("build", "on_run_end"),
    )


@pytest.mark.timeout(600)
def test_demo(postgres_pair: PostgresPair) -> None:
    play(
        postgres_pair("demo"),
        "demo on PostgreSQL",
        Dbt(["build", "--vars", "{simulation_year: 2025}"]),
        Dbt(["build", "--vars", "{simulation_year: 2026}"]),
    )
