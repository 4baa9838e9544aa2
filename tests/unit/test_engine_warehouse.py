"""Which warehouses only one process at a time may use, and which runs cannot be distributed."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.adapters.contracts.connection import Connection, ConnectionState, LazyHandle
from dbt.adapters.duckdb.credentials import DuckDBCredentials

from workers.contract.keys import files_of_warehouse
from workers.engine.warehouse import concurrency
from workers.engine.warehouse.concurrency import cancel_queries, unsplittable_reason, warehouse_of


def config(path: str = ":memory:", attach: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    return SimpleNamespace(
        credentials=DuckDBCredentials.from_dict({"schema": "s", "path": path, "attach": attach, **more})
    )


def test_duckdb_file_is_named_by_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    named = f"duckdb:{tmp_path}/real/w.duckdb"
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    for path in (
        f"{tmp_path}/link/w.duckdb",
        "w.duckdb",
        "~/w.duckdb",
        "duckdb:w.duckdb",
        f"file://{tmp_path}/link/w.duckdb",
    ):
        assert warehouse_of(config(path)) == named


@pytest.mark.parametrize(
    "path",
    [
        ":memory:", ":memory:named", "md:mine", "motherduck:mine", "ducklake:postgres:dbname=x", "ducklake:sqlite:x.db",
        "s3://bucket/w.duckdb", "https://host/w.duckdb", "sqlite:/data/x.db", "postgres:dbname=x password=y",
    ],
)  # fmt: skip
def test_databases_open_to_several_processes_have_no_warehouse_name(path: str) -> None:
    assert warehouse_of(config(path)) is None
    assert warehouse_of(config(attach=[{"path": path}])) is None


def test_warehouse_name_contains_every_file_of_the_profile() -> None:
    attached = [
        {"path": "/data/b.duckdb"},
        {"path": "/data/a.duckdb", "read_only": True},
        {"path": "/data/c.duckdb", "options": {"read_only": True}},
        {"path": "ducklake:/data/lake.ducklake"},
        {"path": "/data/lake2.db", "type": "ducklake"},
        {"path": "dbname=x password=y", "type": "postgres"},
        {"path": "/data/x.db", "type": "SQLITE"},
    ]
    found = warehouse_of(config("/data/main.duckdb", attached))
    assert found is not None
    assert found.splitlines() == [
        "read duckdb:/data/a.duckdb", "duckdb:/data/b.duckdb", "read duckdb:/data/c.duckdb",
        "duckdb:/data/lake.ducklake", "duckdb:/data/lake2.db", "duckdb:/data/main.duckdb",
    ]  # fmt: skip
    assert files_of_warehouse(found)[0] == "duckdb:/data/a.duckdb"


def test_file_opened_twice_is_written_if_either_opening_writes() -> None:
    attached = [{"path": "/data/../data/a.duckdb", "read_only": True}]
    assert warehouse_of(config("/data/a.duckdb", attached)) == "duckdb:/data/a.duckdb"
    read = config("/data/a.duckdb", config_options={"access_mode": "read_only"})
    assert warehouse_of(read) == "read duckdb:/data/a.duckdb"


def test_ducklake_named_by_a_secret_is_not_a_file() -> None:
    secret = {"type": "ducklake", "name": "lake", "metadata_path": "x", "data_path": "y"}
    assert warehouse_of(config(attach=[{"path": "ducklake:lake"}], secrets=[secret])) is None


def test_server_warehouse_has_no_name() -> None:
    assert warehouse_of(SimpleNamespace(credentials=SimpleNamespace(type="postgres"))) is None


def test_in_memory_duckdb_and_show_keep_a_run_in_one_process() -> None:
    flags = SimpleNamespace(SHOW=False)
    assert unsplittable_reason(config(), flags) is not None
    assert unsplittable_reason(config(":memory:named"), flags) is not None
    assert unsplittable_reason(config("/data/a.duckdb"), flags) is None
    assert unsplittable_reason(config("/data/a.duckdb"), SimpleNamespace(SHOW=True)) is not None
    assert (
        unsplittable_reason(SimpleNamespace(credentials=SimpleNamespace(type="postgres")), SimpleNamespace())
        is None
    )


def test_cancelling_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(concurrency, "FACTORY", SimpleNamespace(adapters={"duckdb": adapter}))
    cancel_queries()
    assert cancelled == [busy]
