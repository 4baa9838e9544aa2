"""The demo project, year after year."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.parity.harness import Dbt, Pair, check

pytestmark = pytest.mark.slow


def build(year: int) -> Dbt:
    return Dbt(["build", "--vars", f"{{simulation_year: {year}}}"])


@pytest.mark.timeout(300)
def test_two_simulated_years(duckdb_pair: Callable[..., Pair]) -> None:
    pair = duckdb_pair("demo")
    check(pair.play("demo", [build(2025), build(2026)]))


@pytest.mark.parity
@pytest.mark.timeout(900)
def test_year_that_is_simulated_again(duckdb_pair: Callable[..., Pair]) -> None:
    pair = duckdb_pair("demo")
    again = Dbt(
        ["build", "--full-refresh", "--vars", "{simulation_year: 2025, cola_rate: 0.04, random_seed: 7}"]
    )
    check(pair.play("demo, again", [build(2025), build(2026), build(2027), build(2026), again]))
