"""Plain dbt continues from dbt-relay's artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.parity.harness import Dbt, Pair, check
from workers.verify.sides import dbt_program

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(600)]

DuckDBPair = Callable[..., Pair]


def broken(command: str, *what: str, exit_code: int = 1) -> Dbt:
    return Dbt([*command.split(), "--vars", json.dumps({"broken": list(what)})], exit_code=exit_code)


def with_plain_dbt(pair: Pair) -> None:
    """Run plain dbt on both sides from here on."""
    pair.relay.program = dbt_program()


def test_plain_dbt_continues_after_a_failed_build(duckdb_pair: DuckDBPair) -> None:
    pair = duckdb_pair("broken")
    first = pair.play("artifacts: a failed build", [broken("build", "table", "batch")])
    with_plain_dbt(pair)
    after = pair.play(
        "artifacts: plain dbt afterwards",
        [
            Dbt("ls --select result:error --state target --output name"),
            Dbt("ls --select result:skipped+ --state target"),
            broken("retry", "batch"),
            broken("retry", exit_code=0),
            Dbt("docs generate"),
            Dbt("run --select state:modified --state target"),
        ],
    )
    check(first, after)


def test_plain_dbt_continues_after_a_whole_build(duckdb_pair: DuckDBPair) -> None:
    pair = duckdb_pair("features")
    first = pair.play("artifacts: a whole build", [Dbt("build"), Dbt("source freshness")])
    with_plain_dbt(pair)
    after = pair.play(
        "artifacts: plain dbt afterwards",
        [
            Dbt("retry"),
            Dbt("ls --select result:warn --state target"),
            Dbt("docs generate"),
            Dbt("source freshness"),
            Dbt("build --select source_status:warn+ --state target"),
            Dbt("run --select customer_totals+ --defer --state target"),
        ],
    )
    check(first, after)
