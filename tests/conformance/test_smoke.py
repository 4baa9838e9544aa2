"""A few of dbt's adapter tests through dbt-relay. `make conformance` runs all of them on both sides."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("dbt.tests.adapter.basic", reason="needs dbt-tests-adapter")

from dbt.tests.adapter.basic.test_generic_tests import BaseGenericTests
from dbt.tests.adapter.ephemeral.test_ephemeral import BaseEphemeralErrorHandling
from dbt.tests.adapter.hooks.test_model_hooks import BaseDuplicateHooksInConfigs

pytestmark = pytest.mark.filterwarnings("default")  # warnings of the package's own code


@pytest.fixture(scope="class")
def dbt_profile_target(duckdb_target: dict[str, Any]) -> dict[str, Any]:
    return dict(duckdb_target)


class TestGenericTests(BaseGenericTests):
    side = "relay"


class TestEphemeralErrorHandling(BaseEphemeralErrorHandling):
    side = "relay"


class TestDuplicateHooksInConfigs(BaseDuplicateHooksInConfigs):
    side = "relay"
