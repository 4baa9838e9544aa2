"""``dbt-relay retry RUN`` is like plain ``dbt retry``, without the artifacts of the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from dbt.version import installed

from tests.parity.harness import Change, Dbt, Pair, edit, play, sql
from workers.verify.sides import Outcome, Side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DuckDBPair = Callable[..., Pair]


def broken(command: str, *what: str, exit_code: int = 1, more: Sequence[str] = ()) -> Dbt:
    return Dbt([*command.split(), *more, "--vars", json.dumps({"broken": list(what)})], exit_code=exit_code)


@dataclass
class RetryingSide(Side):
    """dbt-relay's side, where ``retry`` gets the id of the newest run, so that it does not read the target folder."""

    def run(self, args: Sequence[str], *more: object) -> Outcome:
        words = list(args)
        if "retry" in words:
            (self.project / "target" / "run_results.json").unlink(missing_ok=True)
            words.insert(words.index("retry") + 1, "latest")
        return super().run(words, *more)  # type: ignore[arg-type]


def retrying(pair: Pair) -> Pair:
    relay = pair.relay
    pair.relay = RetryingSide(relay.name, relay.folder, relay.program, relay.warehouse, relay.environ)
    return pair


@pytest.mark.skipif(
    installed.minor == "10", reason="dbt-core 1.10 with one thread waits for ever at a microbatch model"
)
def test_failed_and_skipped_nodes(duckdb_pair: DuckDBPair) -> None:
    pair = retrying(duckdb_pair("broken"))
    play(
        pair,
        "retry of a named run",
        broken("build", "table"),
        broken("retry", exit_code=0),
    )


@pytest.mark.parity
def test_failures_of_every_kind(duckdb_pair: DuckDBPair) -> None:
    pair = retrying(duckdb_pair("broken"))
    play(
        pair,
        "retry of a named run: nodes",
        broken("build", "unit_test", "test", "snapshot"),
        broken("retry", "unit_test"),
        broken("retry", exit_code=0),
        broken("retry", exit_code=0),  # nothing to retry
        broken("build", "ephemeral_compile", "pre_hook"),
        broken("retry", "ephemeral_compile", more=["--threads", "2"]),
        broken("retry", more=["--fail-fast"], exit_code=0),
        broken("test", "test", "test_warns", exit_code=0),
        Dbt(["--warn-error", "retry"], exit_code=1),
        Dbt("retry", exit_code=0),
        broken("run --select +solid --full-refresh", "table"),
        broken("retry", exit_code=0),
    )


@pytest.mark.parity
def test_failed_hooks(duckdb_pair: DuckDBPair) -> None:
    pair = retrying(duckdb_pair("broken"))
    play(
        pair,
        "retry of a named run: hooks",
        broken("build", "on_run_start", "view"),
        broken("retry", "on_run_end"),
        broken("retry", exit_code=0),
    )


@pytest.mark.parity
def test_batches(duckdb_pair: DuckDBPair) -> None:
    pair = retrying(duckdb_pair("broken"))
    play(
        pair,
        "retry of a named run: batches",
        broken("build", "batch"),
        broken("retry", "batch"),
        broken("retry", exit_code=0),
        broken("build --select batches+", "batches"),
        broken("retry", exit_code=0),
    )


def keep_state(side: Side) -> None:
    shutil.rmtree(side.project / "state", ignore_errors=True)
    shutil.copytree(side.project / "target", side.project / "state")


@pytest.mark.parity
def test_other_commands(duckdb_pair: DuckDBPair) -> None:
    pair = retrying(duckdb_pair("features"))
    play(
        pair,
        "retry of a named run: other commands",
        Dbt("build"),
        Change("keep the state", keep_state),
        Dbt("compile --select +marts"),
        Dbt("retry"),
        sql("drop table main.raw_orders"),
        Dbt(["run-operation", "add_order", "--args", "{order_id: 81, amount: 1}"], exit_code=1),
        sql("create table main.raw_orders as select * from main_history.orders_checked limit 0"),
        Dbt("retry", exit_code=1),
        Dbt("seed --full-refresh"),
        Dbt("seed --target duckdb_other"),
        edit("models/marts/marts.sql", "select customer_id", "select no_such_column, customer_id"),
        Dbt("run --target duckdb_other --select marts --defer --state state", exit_code=1),
        edit("models/marts/marts.sql", "no_such_column, ", ""),
        Dbt("retry"),
    )
