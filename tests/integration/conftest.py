"""Fixtures of integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded_stack import World
from tests.support.projects import copy_project


@pytest.fixture(params=["duckdb", "postgres"])
def slow_project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The slow project on DuckDB, where a session executes it, and on Postgres, where each node is a task."""
    monkeypatch.setenv("RELAY_TEST_TARGET", request.param)
    if request.param == "postgres":
        request.getfixturevalue("postgres_database")
    else:
        monkeypatch.setenv("RELAY_TEST_DUCKDB", str(tmp_path / "slow.duckdb"))
    return copy_project("slow", tmp_path / "project")


@pytest.fixture
def world() -> Iterator[World]:
    """An environment for embedded stacks, whose processes and folders are removed at the end."""
    made = World()
    yield made
    made.close()
