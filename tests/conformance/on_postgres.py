"""The classes that dbt-postgres runs, on Postgres. pytest collects this file only by name (`make conformance`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.classes import both_sides
from tests.conformance.suites import BOTH, POSTGRES_ALONE, POSTGRES_CHANGES, names

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="class")
def dbt_profile_target(postgres_target: dict[str, Any]) -> dict[str, Any]:
    return dict(postgres_target)


globals().update(both_sides(names(BOTH, POSTGRES_ALONE), POSTGRES_CHANGES))
