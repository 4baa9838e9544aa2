"""A DuckDB file is free again when a command has ended, however it ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.engine import Shared, drive, spec_for
from workers.contract.events import Event
from workers.engine import warehouse
from workers.engine.engine import CommandFailedError, Engine
from workers.engine.warehouse import close_warehouse

ENGINE = Engine(Shared(), worker="here:1")
LEAKING_MODEL = """
import duckdb

def model(dbt, session):
    duckdb.kept_by_a_test = duckdb.connect({path!r})
    return session.sql("select 1 as a")
"""
FAILING_PLUGIN = """
from dbt.adapters.duckdb.plugins import BasePlugin

class Plugin(BasePlugin):
    def configure_connection(self, conn):
        raise RuntimeError("no configuration")
"""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_warehouse()


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


def project(folder: Path, models: dict[str, str], **output: Any) -> Path:
    """A project with one target on DuckDB."""
    root = folder / "project"
    (root / "models").mkdir(parents=True)
    (root / "dbt_project.yml").write_text("{name: files, version: '1.0', profile: files}")
    profile = {"target": "dev", "outputs": {"dev": {"type": "duckdb", "threads": 1, **output}}}
    (root / "profiles.yml").write_text(yaml.safe_dump({"files": profile}))
    for name, text in models.items():
        (root / "models" / name).write_text(text)
    return root


def open_files(folder: Path) -> set[str]:
    """Names of the files of a folder that this process has open."""
    paths = set()
    for number in os.listdir("/proc/self/fd"):
        path = os.path.realpath(f"/proc/self/fd/{number}")
        if path.startswith(f"{folder}/") and ".duckdb" in path:
            paths.add(os.path.basename(path))
    return paths


def failure_of(root: Path) -> CommandFailedError:
    """How the first step of a run failed. The exception keeps alive whatever its tracebacks reach."""
    spec = spec_for(root, "run")
    said: list[Event] = []
    plan = ENGINE.plan(spec, said.append)
    with pytest.raises(CommandFailedError) as failed:
        ENGINE.start(spec, plan.facts, said.append)
    return failed.value


@pytest.mark.parametrize(
    "after",
    [
        {"attach": [{"path": "/nowhere/other.duckdb"}]},
        {"extensions": ["no_such_extension"], "config_options": {"autoinstall_known_extensions": "false"}},
        {"secrets": [{"type": "no_such_secret"}]},
        {"settings": {"no_such_setting": "1"}},
        {"plugins": [{"module": "failing_plugin"}]},
    ],
    ids=["attach", "extension", "secret", "setting", "plugin"],
)
def test_what_fails_after_the_file_was_opened_leaves_it_closed(
    main: Path, tmp_path: Path, after: dict[str, Any]
) -> None:
    (tmp_path / "failing_plugin.py").write_text(FAILING_PLUGIN)
    root = project(
        tmp_path, {"a.sql": "select 1 as a"}, path=str(main), module_paths=[str(tmp_path)], **after
    )
    failed = failure_of(root)
    assert main.exists(), failed  # it was opened
    ENGINE.release()
    assert open_files(tmp_path) == set()
    assert failed.finished.return_code == 2


def test_a_file_that_a_python_model_opened_itself_is_closed(main: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    root = project(tmp_path, {"m.py": LEAKING_MODEL.format(path=str(other))}, path=str(main))
    assert drive(ENGINE, spec_for(root, "run")).finished.return_code == 0
    assert open_files(tmp_path) >= {other.name}
    ENGINE.release()
    assert open_files(tmp_path) == set()


def test_a_connection_that_cannot_be_closed_keeps_no_other_open(
    main: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, {"a.sql": "select 1 as a"}, path=str(main))
    spec = spec_for(root, "run")
    plan = ENGINE.plan(spec, lambda _: None)
    ENGINE.start(spec, plan.facts, lambda _: None)
    assert open_files(tmp_path)
    [adapter] = warehouse.FACTORY.adapters.values()

    def refuse() -> None:
        raise RuntimeError("the transaction was aborted")

    monkeypatch.setattr(adapter, "cleanup_connections", refuse)
    with pytest.raises(RuntimeError, match="aborted"):
        ENGINE.release()
    assert open_files(tmp_path) == set()


def test_connections_of_the_process_itself_stay_open(main: Path, tmp_path: Path) -> None:
    """Only what a step opened is closed: a test, or a program that uses the engine, has connections too."""
    import duckdb

    root = project(tmp_path, {"a.sql": "select 1 as a"}, path=str(main))
    with duckdb.connect(str(tmp_path / "own.duckdb")) as own:
        assert drive(ENGINE, spec_for(root, "run")).finished.return_code == 0
        ENGINE.release()
        assert open_files(tmp_path) == {"own.duckdb"}
        assert own.execute("select 1").fetchall() == [(1,)]
