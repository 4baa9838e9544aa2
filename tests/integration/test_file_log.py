"""``logs/dbt.log`` of a run on real workers, compared with plain dbt's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer import DbtUsageError
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.processes import without_coverage
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.connection import connect
from workers.contract.results import DbtResult

BIN = Path(sys.executable).parent

CONNECTIONS = (
    "Acquiring new ",
    "Re-using an available connection",
    "Opening a new connection",
    "Connection '",
)
"""Starts of lines about connections, which differ: dbt's threads take any free connection."""

MASKS = (
    (r"\x1b\[\d*m", ""),
    (r"^\d\d:\d\d:\d\d(\.\d+)?", "T"),
    (r"={30} \S+ \| \S+", "== T | ID"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d+\.\d+ ?s(econds)?\b", "N s"),
    (r"at \d\d:\d\d:\d\d\.\d+ after N s", "at T"),
    (r"Resource report: .*", "Resource report"),
    (r"\.{3,}", "..."),
)


def masked(path: Path) -> list[str]:
    """Lines of a log file, without the parts that differ between two runs of plain dbt."""
    text = path.read_text().replace(str(path.parents[1]), "PROJECT")
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if not any(word in line for word in CONNECTIONS)]
    return ["".join(sorted(line)) if "running dbt with arguments" in line else line for line in lines]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    with postgres.database() as made:
        yield made


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools, database: PostgresDatabase) -> WorkerPool:
    return module_worker_pool(2, env=database.env)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs plain dbt in one copy of the small project for all calls. Returns the project's folder."""
    project = copy_project("small", tmp_path_factory.mktemp("plain") / "small")

    def run(*args: str) -> Path:
        env = {**without_coverage(), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
        subprocess.run([BIN / "dbt", *args], cwd=project, env=env, check=True, capture_output=True)
        return project

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project("small", tmp_path / "small")


@pytest.fixture
def run(pool: WorkerPool, project: Path, redis_server: RedisServer) -> Callable[..., DbtResult]:
    caller = runner(redis_server, project, threads=1, env={"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"})

    def execute(*args: str, **options: Any) -> DbtResult:
        return caller.execute_command(list(args), **{"stream_output": False, **options})

    return execute


def test_log_equals_plain_dbts_line_by_line(
    plain: Callable[..., Path], run: Callable[..., DbtResult], project: Path
) -> None:
    """For a build, then a command that a worker executes as one step, whose lines are appended."""
    plain("build", "--threads", "1")
    theirs = masked(plain("ls") / "logs" / "dbt.log")
    assert run("build").success
    assert run("ls").success
    assert masked(project / "logs" / "dbt.log") == theirs
    assert sum("T | ID" in line for line in theirs) == 2


def test_json_records_equal_plain_dbts(
    plain: Callable[..., Path], run: Callable[..., DbtResult], project: Path
) -> None:
    words = ("--log-format-file", "json", "--log-level-file", "info", "--log-path", "given")
    folder = plain("build", "--threads", "1", *words)
    assert run("build", *words).success
    assert not (project / "logs").exists()
    records = [
        [
            (line["info"]["name"], line["info"]["level"], sorted(line["data"]), line["info"]["thread"])
            for line in map(json.loads, (each / "given" / "dbt.log").read_text().splitlines())
            if line["info"]["name"] != "UnableToPartialParse"  # plain dbt's project was parsed before
        ]
        for each in (folder, project)
    ]  # fmt: skip
    assert records[0] == records[1]


def test_file_is_written_while_the_caller_handles_a_line(
    run: Callable[..., DbtResult], project: Path
) -> None:
    first = threading.Event()

    def read_slowly(_: str) -> None:
        if not first.is_set():
            first.set()
            wait_until(lambda: "Completed successfully" in (project / "logs" / "dbt.log").read_text(), 60)

    assert run("build", on_line=read_slowly).success
    assert first.is_set()


def test_full_disk_is_reported_and_does_not_fail_the_run(
    run: Callable[..., DbtResult], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "logs").mkdir()
    (project / "logs" / "dbt.log").symlink_to("/dev/full")
    result = run("build")
    assert result.success
    assert (
        f"dbt-relay: {project}/logs/dbt.log lacks lines of run {result.run_id}: No space left on device"
        in capsys.readouterr().err
    )


def test_no_run_is_queued_if_the_log_file_cannot_be_opened(
    run: Callable[..., DbtResult], project: Path, redis_server: RedisServer
) -> None:
    with connect(redis_server.url) as client:
        before = set(client.keys("relay:run:*"))
        (project / "logs").write_text("no folder")
        with pytest.raises(DbtUsageError, match=r"logs/dbt.log cannot be opened"):
            run("build")
        assert set(client.keys("relay:run:*")) == before


def test_log_stream_is_removed_from_redis(run: Callable[..., DbtResult], redis_server: RedisServer) -> None:
    result = run("build")
    with connect(redis_server.url) as client:
        assert not client.exists(f"relay:run:{result.run_id}:log")


@pytest.mark.postgres
def test_records_of_several_processes_are_whole_and_in_order(
    pool: WorkerPool, database: PostgresDatabase, tmp_path: Path, redis_server: RedisServer
) -> None:
    project = copy_project("small", tmp_path / "on_postgres")
    env = {**database.env, "RELAY_TEST_TARGET": "postgres"}
    caller = runner(redis_server, project, env=env)
    result = caller.execute_command(["build"], stream_output=False)
    assert result.success, result.stdout
    text = (project / "logs" / "dbt.log").read_text()
    manifest = json.loads((project / "target" / "manifest.json").read_text())
    for node in result.nodes:
        if node.resource_type == "operation":
            continue
        began, ended = (f"{word} running node {node.unique_id}\n" for word in ("Began", "Finished"))
        assert (text.count(began), text.count(ended)) == (1, 1)
        assert text.index(began) < text.index(ended)
        for parent in manifest["parent_map"][node.unique_id]:
            assert text.index(f"Finished running node {parent}\n") < text.index(began)
    shown = [line for line in masked_lines(result.stdout) if line]
    kept = [line for line in masked_lines(text) if line in set(shown)]
    assert kept == shown


def masked_lines(text: str) -> list[str]:
    """Lines without their time, level and thread."""
    return [
        re.sub(r"^(\x1b\[0m)?\d\d:\d\d:\d\d(\.\d+ \[\w+ *\] \[.{10}\]:)? +", "", line)
        for line in text.splitlines()
    ]
