"""State between commands: changes that workers must notice because they keep running.

The tests share two copies of the features project and its warehouses, built once. Each test starts from the state
that the one before left, which is equal on both sides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.conftest import duckdb_pair_in
from tests.parity.harness import Change, Dbt, Pair, Step, check, edit, remove, sql, write
from tests.support.worker_pool import WorkerPool
from workers.verify.sides import Side

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, live_workers: WorkerPool) -> Pair:
    """The features project, built once on each side."""
    pair = duckdb_pair_in(tmp_path_factory.mktemp("state"), "features", live_workers.broker)
    check(pair.play("state between processes: the first build", [Dbt("build")]))
    return pair


def play(pair: Pair, what: str, *steps: Step) -> None:
    check(pair.play(f"state between processes: {what}", steps))


def test_incremental_models_two_and_three_times(built: Pair) -> None:
    models = "run --select path:models/incremental daily_orders"
    play(
        built,
        "incremental models",
        Dbt(models),
        sql("insert into main.raw_orders values (101, 1, date '2025-02-01', 9.5, 'paid'), (102, 2, date '2025-02-02', 1, 'new')"),
        sql("update main.raw_orders set amount = 77 where order_id = 5"),
        Dbt(models),
        sql("insert into main.raw_orders values (103, 3, date '2025-02-03', 4.25, 'paid')"),
        Dbt(models),
        Dbt(f"{models} --full-refresh"),
        Dbt(models),
    )  # fmt: skip


def test_model_changes_to_a_table_and_back(built: Pair) -> None:
    as_table = "{{ config(materialized='table') }}\nselect customer_id"
    models = "run --select stg_customers+1 customers+1"
    play(
        built,
        "a view, a table, a view",
        edit("models/staging/stg_customers.sql", "select customer_id", as_table),
        edit("models/marts/customers.sql", "materialized='table'", "materialized='view'"),
        Dbt(models),
        Dbt(models),
        edit("models/staging/stg_customers.sql", as_table, "select customer_id"),
        edit("models/marts/customers.sql", "materialized='view'", "materialized='table'"),
        Dbt(models),
    )


def test_relations_dropped_outside_of_dbt(built: Pair) -> None:
    play(
        built,
        "dropped outside of dbt",
        sql("drop table main_facts.appended"),
        sql("drop view main_helpers.helper_factors"),
        sql("drop table main_marts.customer_totals"),
        Dbt("run --select appended chained helper_factors marts customer_totals run_facts"),
    )


def test_relations_created_outside_of_dbt(built: Pair) -> None:
    play(
        built,
        "created outside of dbt",
        sql("drop view main_helpers.helper_factors"),
        sql("create table main_helpers.helper_factors as select 1 as other"),
        sql("drop table main_marts.marts"),
        sql("create view main_marts.marts as select 1 as made_by_somebody_else"),
        sql("drop table main_facts.merged"),
        sql("create table main_facts.merged as select order_id, amount, 'elsewhere' as first_seen from main.raw_orders limit 2"),
        Dbt("run --select helper_factors marts merged run_facts"),
        Dbt("run --select helper_factors marts merged run_facts"),
    )  # fmt: skip


def test_schema_dropped_outside_of_dbt(built: Pair) -> None:
    play(
        built,
        "a dropped schema",
        sql("drop schema main_facts cascade"),
        Dbt("run --select path:models/incremental"),
        sql("drop schema main_helpers cascade"),
        Dbt("run --select package:helpers package_user"),
        Dbt("run --select path:models/incremental package:helpers"),
    )


def test_changed_source_table(built: Pair) -> None:
    play(
        built,
        "a changed source",
        sql("update main.raw_customers set name = name || '!'"),
        Dbt("build --select source:shop.customers_source+1 source:shop.rates"),
        sql("alter table main.raw_customers add column added_later integer default 3"),
        sql("alter table main.rates alter rate_id type bigint"),
        sql("delete from main.rates"),
        Dbt("build --select source:shop.customers_source+1 source:shop.rates stg_customers+1 --exclude resource_type:snapshot"),
        Dbt("source freshness", exit_code=1),  # of an empty table
        Dbt("seed --full-refresh --select raw_customers"),  # removes its column; later tests seed it again
    )  # fmt: skip


def test_files_that_are_added_changed_and_removed(built: Pair) -> None:
    play(
        built,
        "files",
        write("models/marts/new_model.sql", "select * from {{ ref('customers') }}"),
        Dbt("run --select customers+"),
        edit("models/marts/new_model.sql", "*", "customer_id, 'edited' as what"),
        edit("macros/names.sql", "::decimal(12, 2)", "::decimal(14, 3)"),
        Dbt("run --select customers+ stg_orders"),
        edit("seeds/raw_orders.csv", "6,3,2025-01-05,7.75,paid", "6,3,2025-01-05,8.75,paid\n9,1,2025-01-07,1.25,paid"),
        remove("models/marts/new_model.sql"),
        Dbt("build --select raw_orders+1 customers+ --exclude resource_type:snapshot"),
    )  # fmt: skip


def upgrade(side: Side) -> None:
    """Install the next release of the package from another folder."""
    old, new = (side.project / "packages" / name for name in ("helpers", "helpers-2.0.0"))
    for file in sorted(path for path in old.rglob("*") if path.is_file()):
        text = file.read_text().replace("1.0.0", "2.0.0").replace("from the package", "from its next release")
        copy = new / file.relative_to(old)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace("factor: 2", "factor: 5"))
    (new / "models" / "added.sql").write_text("select {{ var('factor') }} as factor, 2 as release")


def test_upgraded_package(built: Pair) -> None:
    play(
        built,
        "a package",
        edit("packages/helpers/models/customers.sql", "from the package", "edited in place"),
        Dbt("run --select package:helpers package_user"),
        edit("packages/helpers/models/customers.sql", "edited in place", "from the package"),
        Change("the package's next release", upgrade),
        edit("packages.yml", "packages/helpers", "packages/helpers-2.0.0"),
        Dbt("run --select package:helpers package_user"),  # the new release is not installed yet
        Dbt("deps"),
        Dbt("run --select package:helpers package_user"),
        edit("packages.yml", "packages/helpers-2.0.0", "packages/helpers"),
        Dbt("deps"),
        Dbt("run --select package:helpers package_user"),
    )


def test_edited_profile(built: Pair) -> None:
    play(
        built,
        "a profile",
        edit("profiles.yml", "schema: main\n      threads: 4\n    duckdb_other", "schema: main\n      threads: 2\n    duckdb_other"),
        Dbt("run --select run_facts"),
        edit("profiles.yml", "schema: other\n      threads: 1\n    postgres: ", "schema: third\n      threads: 1\n    postgres: "),
        Dbt("build --target duckdb_other --select +run_facts raw_orders+1 --exclude resource_type:snapshot"),
        edit("profiles.yml", "schema: third", "schema: other"),
        Dbt("build --target duckdb_other --select +run_facts --exclude resource_type:snapshot"),
        Dbt("run --select run_facts"),
    )  # fmt: skip


def test_two_targets_in_turn(built: Pair) -> None:
    models = "build --select +appended +run_facts --exclude resource_type:snapshot"
    play(
        built,
        "two targets",
        Dbt(f"{models} --target duckdb_other"),
        Dbt(models),
        Dbt(f"{models} --target duckdb_other"),
        Dbt(models),
    )


def test_two_projects_in_turn(built: Pair, tmp_path: Path, live_workers: WorkerPool) -> None:
    small = duckdb_pair_in(tmp_path, "small", live_workers.broker)
    reports = []
    for turn in range(2):
        reports.append(small.play(f"two projects: small, turn {turn + 1}", [Dbt("build")]))
        steps = [Dbt("run --select stg_orders appended run_facts")]
        reports.append(built.play(f"two projects: features, turn {turn + 1}", steps))
    check(*reports)


def test_two_sets_of_vars_in_turn(built: Pair) -> None:
    models = "run --select stg_customers+ merged optional_model"
    south, north = (
        "--vars '{region: south, with_optional: true}'",
        "--vars '{region: north, with_status: true}'",
    )
    play(
        built,
        "two sets of vars",
        Dbt(f"{models} {south}"),
        Dbt(f"{models} {north}"),
        Dbt(f"{models} {south}"),
        Dbt(models),
    )


def test_two_environments_in_turn(built: Pair) -> None:
    models = "run --select customer_totals run_facts"
    play(
        built,
        "two environments",
        Dbt(models, env={"DBT_FEATURES_MOOD": "wild"}),
        Dbt(models),
        Dbt(models, env={"DBT_FEATURES_MOOD": "wild"}),
    )
