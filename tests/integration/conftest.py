"""What several integration tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import copy_project


@pytest.fixture(params=["duckdb", "postgres"])
def slow_project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The slow project on either kind of warehouse: executed in a session, or node by node."""
    monkeypatch.setenv("RELAY_TEST_TARGET", request.param)
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
    else:
        monkeypatch.setenv("RELAY_TEST_DUCKDB", str(tmp_path / "slow.duckdb"))
    return copy_project("slow", tmp_path / "project")
