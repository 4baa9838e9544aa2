"""The demonstration project: dbt-relay's tables are plain dbt's, year after year."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.parity.harness import Dbt, Pair, check

pytestmark = pytest.mark.slow


def build(year: int) -> Dbt:
    return Dbt(["build", "--vars", f"{{simulation_year: {year}}}"])


@pytest.mark.timeout(300)
def test_three_simulated_years_equal_three_plain_builds(duckdb_pair: Callable[..., Pair]) -> None:
    pair = duckdb_pair("demo")
    check(pair.play("demo", [build(2025), build(2026), build(2027)]))
