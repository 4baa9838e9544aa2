"""Which warehouses belong to one process at a time, and which runs cannot be split."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.adapters.contracts.connection import Connection, ConnectionState, LazyHandle

from workers.engine import warehouse
from workers.engine.warehouse import cancel_queries, warehouse_of, whole_reason


def config(path: str = ":memory:", attach: list[tuple[str, bool]] | None = None, kind: str = "duckdb") -> Any:
    attached = [SimpleNamespace(path=each, read_only=read_only) for each, read_only in attach or []]
    return SimpleNamespace(credentials=SimpleNamespace(type=kind, path=path, attach=attached or None))


def test_a_duckdb_file_is_named_by_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    named = f"duckdb:{tmp_path}/real/w.duckdb"
    assert warehouse_of(config(str(tmp_path / "link" / "w.duckdb"))) == named
    monkeypatch.chdir(tmp_path / "link")
    assert warehouse_of(config("w.duckdb")) == named


@pytest.mark.parametrize(
    "path", [":memory:", "md:mine", "motherduck:mine", "ducklake:postgres:dbname=x", "s3://bucket/w.duckdb"]
)
def test_what_many_processes_may_open_has_no_name(path: str) -> None:
    assert warehouse_of(config(path)) is None


def test_a_file_that_is_attached_for_writing_counts() -> None:
    assert warehouse_of(config(attach=[("/data/a.duckdb", True)])) is None
    assert warehouse_of(config(attach=[("/data/a.duckdb", False)])) == "duckdb:/data/a.duckdb"


def test_a_server_takes_many() -> None:
    assert warehouse_of(config(kind="postgres")) is None


def test_what_cannot_be_split() -> None:
    flags = SimpleNamespace(SHOW=False)
    assert whole_reason(config(), flags) is not None
    assert whole_reason(config("/data/a.duckdb"), flags) is None
    assert whole_reason(config("/data/a.duckdb"), SimpleNamespace(SHOW=True)) is not None
    assert whole_reason(config(kind="postgres"), SimpleNamespace()) is None


def test_to_cancel_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def opener(_: Any) -> Any:
        pytest.fail("opened")

    credentials: Any = None
    idle = Connection(type="duckdb", name="idle", credentials=credentials)
    idle.handle = LazyHandle(opener)
    busy = Connection(type="duckdb", name="busy", credentials=credentials, state=ConnectionState.OPEN)
    busy.handle = object()
    cancelled: list[Connection] = []
    manager = SimpleNamespace(
        lock=threading.RLock(), thread_connections={1: idle, 2: busy}, cancel=cancelled.append
    )
    adapter = SimpleNamespace(type=lambda: "duckdb", connections=manager)
    monkeypatch.setattr(warehouse, "FACTORY", SimpleNamespace(adapters={"duckdb": adapter}))
    cancel_queries()
    assert cancelled == [busy]
