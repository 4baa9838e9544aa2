"""A worker with a copy of the project in another folder, as on another machine, and without its caller's environment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from producer.dbt_args import parse_invocation
from producer.session import Follower, Stack
from tests.support.processes import unmeasured
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPools
from workers.contract.results import DbtResult
from workers.contract.settings import read_settings

PROFILES = """
shop:
  target: dev
  outputs:
    dev:
      type: duckdb
      path: "{{ env_var('SHOP' ~ '_FILE', 'default.duckdb') }}"
      schema: "{{ env_var(var='SHOP_SCHEMA', default='main') }}"
"""


class Machines:
    """A caller, and a worker that keeps the project in a folder of its own."""

    def __init__(self, base: Path, server: RedisServer) -> None:
        self.base, self.server = base, server
        self.callers, self.workers = base / "caller" / "shop", base / "worker" / "shop"
        self.profiles = base / "profiles"

    def lay_out(self) -> None:
        """The same project on both sides, with the profile outside of it."""
        for folder in (self.callers.parent, self.workers, self.profiles):
            shutil.rmtree(folder, ignore_errors=True)
        (self.callers / "models").mkdir(parents=True)
        (self.callers / "dbt_project.yml").write_text("name: shop\nprofile: shop\nversion: '1.0'\n")
        (self.callers / "models" / "answer.sql").write_text("select 41 as answer\n")
        self.profiles.mkdir()
        (self.profiles / "profiles.yml").write_text(PROFILES)
        shutil.copytree(self.callers, self.workers)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> DbtResult:
        """The result of a command; the caller's folder is out of the worker's sight while it is executed."""
        environ = {**unmeasured(), "SHOP_FILE": str(self.base / "right.duckdb"), **(env or {})}
        follower = Follower(Stack(broker_url=self.server.broker_url), read_settings(environ))
        words = args if "--profiles-dir" in args else (*args, "--profiles-dir", str(self.profiles))
        invocation = parse_invocation(words, environ=environ, cwd=self.callers)
        request, _ = follower.request(invocation, cwd=self.callers, environ=environ)
        hidden = self.callers.parent.rename(self.base / "hidden")
        try:
            follower.client.submit(request)
            return follower.client.result(request.run_id, timeout=60)
        finally:
            hidden.rename(self.callers.parent)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.base / "right.duckdb"), read_only=True) as connection:
            return connection.sql(f"from {table}").fetchall()


@pytest.fixture(scope="module")
def pair(
    module_worker_pool: WorkerPools, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("machines"), redis_server)
    module_worker_pool(1, env={"DBT_RELAY_PROJECT_DIR": str(machines.workers)})
    return machines


@pytest.fixture
def machines(pair: Machines) -> Machines:
    pair.lay_out()
    return pair


SENT = {"DBT_RELAY_ENV_SEND": "SHOP_*"}


def failed(result: DbtResult) -> tuple[str, str]:
    """The code of the error of a command that ended with exit code 2, and what it says."""
    assert (result.success, result.return_code) == (False, 2)
    assert result.error is not None
    return result.error.code, f"{result.error.message}\n{result.error.detail}\n{result.error.suggested_fix}"


def test_a_default_is_not_used_where_the_caller_has_a_value(machines: Machines) -> None:
    for command in ("run", "compile"):
        code, text = failed(machines.run(command))
        assert code == "env_var_not_sent"
        assert "SHOP_FILE" in text
        assert "DBT_RELAY_ENV_SEND=SHOP_FILE" in text
    assert not list(machines.base.rglob("default.duckdb"))
    result = machines.run("run", env={**SENT, "SHOP_SCHEMA": "other"})
    assert result.success, result.stdout
    assert machines.rows("other.answer") == [(41,)]
    code, _ = failed(machines.run("run", env={"SHOP_SCHEMA": "other"}))  # the worker knows the project now
    assert code == "env_var_not_sent"
