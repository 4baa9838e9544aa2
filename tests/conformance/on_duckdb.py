"""The classes that dbt-duckdb runs, on DuckDB files. pytest collects this file only by name (`make conformance`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.classes import both_sides
from tests.conformance.suites import BOTH, DUCKDB_ALONE, DUCKDB_CHANGES, names

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="class")
def dbt_profile_target(duckdb_target: dict[str, Any]) -> dict[str, Any]:
    return dict(duckdb_target)


globals().update(both_sides(names(BOTH, DUCKDB_ALONE), DUCKDB_CHANGES))
