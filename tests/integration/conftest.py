"""Fixtures of integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.embedded_stack import World
from tests.support.projects import copy_project

if TYPE_CHECKING:
    from tests.support.parsing import Parsing


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
def quick_parsing() -> Iterator[None]:
    """dbt analyses its own macros once for all parses."""
    from dbt_common.tests import disable_test_caching, enable_test_caching

    from workers.engine.warehouse.concurrency import close_warehouse

    enable_test_caching()
    yield
    disable_test_caching()
    close_warehouse()


@pytest.fixture
def parsing(tmp_path: Path, duckdb_file: Path, quick_parsing: None) -> Parsing:
    """A project whose files a test writes, on top of two models and the macros of `reading_projects`."""
    from tests.support.parsing import START, Parsing, write

    write(tmp_path / "project", START)
    return Parsing(tmp_path / "project")


@pytest.fixture
def no_full_parse(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses full parses: each is an entry of the list, and an error."""
    from workers.engine.project.context import ContextStore

    refused: list[str] = []

    def refuse(_: Any, family: str, *__: Any) -> None:
        refused.append(family)
        raise LookupError("a full parse")

    monkeypatch.setattr(ContextStore, "_parse", refuse)
    return refused


@pytest.fixture
def world() -> Iterator[World]:
    """An environment for embedded stacks, whose processes and folders are removed at the end."""
    made = World()
    yield made
    made.close()
