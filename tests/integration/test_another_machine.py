"""A worker with a copy of the project in another folder, as on another machine, and without its caller's environment."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from producer.dbt_cli.arguments import parse_invocation
from producer.session import Follower, Stack
from tests.support.processes import without_coverage
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
        for folder in (self.callers.parent, self.workers.parent, self.profiles):
            shutil.rmtree(folder, ignore_errors=True)
        (self.callers / "models").mkdir(parents=True)
        (self.callers / "dbt_project.yml").write_text("name: shop\nprofile: shop\nversion: '1.0'\n")
        (self.callers / "models" / "answer.sql").write_text("select 41 as answer\n")
        self.profiles.mkdir()
        (self.profiles / "profiles.yml").write_text(PROFILES)
        shutil.copytree(self.callers, self.workers)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> DbtResult:
        """The result of a command; the caller's folder is out of the worker's sight while it is executed."""
        environ = {**without_coverage(), "SHOP_FILE": str(self.base / "right.duckdb"), **(env or {})}
        follower = Follower(Stack(broker_url=self.server.broker_url), read_settings(environ))
        words = (
            args
            if any("--profiles-dir" in word for word in args)
            else (*args, "--profiles-dir", str(self.profiles))
        )
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


def test_default_of_env_var_is_not_used_if_the_caller_has_a_value(machines: Machines) -> None:
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


def test_default_is_not_used_at_execution_if_the_caller_has_a_value(
    machines: Machines,
) -> None:
    for project in (machines.callers, machines.workers):
        (project / "models" / "late.sql").write_text(
            "select '{{ env_var('SHOP' ~ '_LATE', 'default') if execute else '' }}' as value"
        )
    send = {"DBT_RELAY_ENV_SEND": "SHOP_FILE", "SHOP_LATE": "callers"}
    result = machines.run("run", env=send)
    assert {node.name: node.status for node in result.nodes} == {"answer": "success", "late": "error"}
    error = next(node.error for node in result.nodes if node.name == "late")
    assert error is not None
    assert (error.code, "DBT_RELAY_ENV_SEND=SHOP_LATE" in error.suggested_fix) == ("env_var_not_sent", True)
    result = machines.run("run", env={**send, **SENT})
    assert result.success, result.stdout
    assert machines.rows("late") == [("callers",)]


def test_error_asks_for_secret_on_the_worker(machines: Machines) -> None:
    (machines.profiles / "profiles.yml").write_text(
        PROFILES + "      threads: \"{{ env_var('DBT_ENV_SECRET_SHOP', '1') | int }}\"\n"
    )
    code, text = failed(machines.run("run", env={**SENT, "DBT_ENV_SECRET_SHOP": "sesame"}))
    assert code == "env_var_not_sent"
    assert "DBT_ENV_SECRET_SHOP" in text
    assert "environment of the workers" in text
    assert "sesame" not in text


def test_worker_refuses_a_different_copy_of_the_project(machines: Machines) -> None:
    (machines.workers / "models" / "answer.sql").write_text("select 42 as answer\n")
    (machines.workers / "models" / "further.sql").write_text("select 1 as x\n")
    for command in ("run", "compile"):
        code, text = failed(machines.run(command, env=SENT))
        assert code == "project_mismatch"
        for word in (
            str(machines.workers), "models/answer.sql (differs)", "models/further.sql (only here)", "DBT_RELAY_PROJECT_CHECK",
        ):  # fmt: skip
            assert word in text
    assert machines.run("run", env={**SENT, "DBT_RELAY_PROJECT_CHECK": "off"}).success
    assert machines.rows("answer") == [(42,)]


def test_copy_with_other_line_ends_and_unused_files_is_accepted(machines: Machines) -> None:
    (machines.workers / "models" / "answer.sql").write_bytes(b"select 41 as answer\r\n")
    for name in ("target", "logs", ".git"):
        (machines.workers / name).mkdir()
        (machines.workers / name / "left.sql").write_text("select 2")
    (machines.workers / "README.md").write_text("left")
    assert machines.run("run", env=SENT).success
    assert machines.rows("answer") == [(41,)]


def test_folder_that_the_worker_does_not_have_is_named(machines: Machines) -> None:
    def lose_a_mount() -> None:
        shutil.rmtree(machines.workers)
        machines.workers.mkdir()

    for lose, what in (
        ((machines.workers / "dbt_project.yml").unlink, "has no dbt_project.yml"),
        (lose_a_mount, "is empty"),
        (machines.workers.rmdir, "does not exist"),
        (machines.workers.touch, "is not a folder"),
    ):
        lose()
        code, text = failed(machines.run("run", env=SENT))
        assert code == "project_not_found"
        assert f"{machines.workers}, {what}" in text
        assert f"on worker {socket.gethostname()}:" in text
        assert "DBT_RELAY_PROJECT_DIR" in text


def test_profiles_folder_that_the_worker_does_not_have_is_named(machines: Machines) -> None:
    profiles = machines.callers.parent / "profiles"
    machines.profiles.rename(profiles)
    for command in ("run", "compile"):
        code, text = failed(machines.run(command, "--profiles-dir", str(profiles), env=SENT))
        assert code == "profiles_not_found"
        assert str(profiles) in text


def test_paths_in_the_callers_project_are_found_in_the_workers(machines: Machines) -> None:
    for project in (machines.callers, machines.workers):
        (project / "connections").mkdir()
        shutil.copy(machines.profiles / "profiles.yml", project / "connections")
    shutil.rmtree(machines.profiles)
    for given in (str(machines.callers / "connections"), "connections"):
        assert machines.run("run", "--profiles-dir", given, env=SENT).success
    folder = str(machines.callers / "connections")
    named = ("--project-dir", str(machines.callers), f"--profiles-dir={folder}")
    assert machines.run("run", *named, env={**SENT, "DBT_PROFILES_DIR": folder}).success
