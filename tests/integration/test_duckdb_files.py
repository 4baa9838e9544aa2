"""DuckDB files: closed after every command, even a failed one, and used by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_invocation
from producer.session import Follower, Stack
from tests.support.engine import Shared, drive, spec_for
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool
from workers.contract.events import Event
from workers.contract.keys import SESSION
from workers.contract.settings import Settings
from workers.engine.engine import CommandFailedError, Engine
from workers.engine.warehouse import concurrency
from workers.engine.warehouse.concurrency import close_warehouse

ENGINE = Engine(Shared(), worker="here:1")
LEAKING_MODEL = """
import duckdb

def model(dbt, session):
    duckdb.kept_by_a_test = duckdb.connect({path!r})
    return session.sql("select 1 as a")
"""
GATED_MODEL = """
import os, time

def model(dbt, session):
    while not os.path.exists({gate!r}):
        time.sleep(0.05)
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
    """Names of DuckDB files in a folder that this process has open."""
    paths = set()
    for number in os.listdir("/proc/self/fd"):
        path = os.path.realpath(f"/proc/self/fd/{number}")
        if path.startswith(f"{folder}/") and ".duckdb" in path:
            paths.add(os.path.basename(path))
    return paths


def failure_of(root: Path) -> CommandFailedError:
    """The error of a run's start step. Its traceback keeps references to dbt's objects."""
    spec = spec_for(root, "run")
    events: list[Event] = []
    plan = ENGINE.plan(spec, events.append)
    with pytest.raises(CommandFailedError) as failed:
        ENGINE.start(spec, plan.facts, events.append)
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
def test_file_is_closed_when_opening_the_database_fails_later(
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


def test_file_opened_by_a_python_model_is_closed(main: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    root = project(tmp_path, {"m.py": LEAKING_MODEL.format(path=str(other))}, path=str(main))
    assert drive(ENGINE, spec_for(root, "run")).finished.return_code == 0
    assert open_files(tmp_path) >= {other.name}
    ENGINE.release()
    assert open_files(tmp_path) == set()


def test_connection_that_cannot_be_closed_keeps_no_other_open(
    main: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, {"a.sql": "select 1 as a"}, path=str(main))
    spec = spec_for(root, "run")
    plan = ENGINE.plan(spec, lambda _: None)
    ENGINE.start(spec, plan.facts, lambda _: None)
    assert open_files(tmp_path)
    [adapter] = concurrency.FACTORY.adapters.values()

    def refuse() -> None:
        raise RuntimeError("the transaction was aborted")

    monkeypatch.setattr(adapter, "cleanup_connections", refuse)
    with pytest.raises(RuntimeError, match="aborted"):
        ENGINE.release()
    assert open_files(tmp_path) == set()


def test_connections_opened_outside_of_steps_stay_open(main: Path, tmp_path: Path) -> None:
    """A program that uses the engine may have connections of its own."""
    root = project(tmp_path, {"a.sql": "select 1 as a"}, path=str(main))
    with duckdb.connect(str(tmp_path / "own.duckdb")) as own:
        assert drive(ENGINE, spec_for(root, "run")).finished.return_code == 0
        ENGINE.release()
        assert open_files(tmp_path) == {"own.duckdb"}
        assert own.execute("select 1").fetchall() == [(1,)]


def submit(server: RedisServer, root: Path) -> str:
    """Submit a run of a project; return its id."""
    follower = Follower(Stack(broker_url=server.broker_url), Settings(broker_url=server.broker_url))
    environ = dict(os.environ)
    invocation = parse_invocation(["run"], environ=environ, cwd=root)
    request, _ = follower.request(invocation, cwd=root, environ=environ)
    return follower.client.submit(request)


@pytest.mark.slow
def test_run_waits_for_a_file_that_another_project_has_open(
    tmp_path: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    worker_pool(n=2)
    shared, own = tmp_path / "shared.duckdb", tmp_path / "own.duckdb"
    gate = tmp_path / "gate"
    one = project(tmp_path / "one", {"slow.py": GATED_MODEL.format(gate=str(gate))}, path=str(shared))
    model = "{{ config(materialized='table', database='shared') }} select 2 as b"
    (tmp_path / "link").symlink_to(tmp_path)
    two = project(
        tmp_path / "two", {"b.sql": model}, path=str(own),
        attach=[{"path": str(tmp_path / "link" / shared.name), "alias": "shared"}],
    )  # fmt: skip
    client = RelayClient(redis_server.broker_url)
    first = submit(redis_server, one)
    wait_until(lambda: client.store.fact(first, "index") == "1", 60, "the first run to begin its node")
    second = submit(redis_server, two)
    states = client.store.keys.states(second)
    wait_until(
        lambda: client.store.client.hget(states, SESSION) == b"parked", 60, "the second run to be parked"
    )
    gate.touch()
    for run_id in (first, second):
        result = client.result(run_id, timeout=60)
        assert result.success, result.stdout
        assert {len(node.attempts) for node in result.nodes} == {1}
    ended, began = (float(client.store.fact(*each) or 0) for each in ((first, "ended"), (second, "began")))
    assert ended < began
    with duckdb.connect(str(shared), read_only=True) as connection:
        assert connection.execute("select b from b").fetchall() == [(2,)]
