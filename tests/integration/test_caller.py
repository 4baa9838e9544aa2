"""A warm stack serves callers other than the one that started it, each as plain dbt would."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from producer import DbtRunner
from tests.support.processes import short_directory, without_coverage
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPools

Copy = Callable[..., Path]
BIN = Path(sys.executable).parent


def rows(file: Path, table: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.sql(f"from {table}").fetchall()


@pytest.fixture(scope="module")
def stack() -> Iterator[dict[str, str]]:
    """Environment of a warm stack. Its first caller was in zone Berlin, in a folder that is deleted now."""
    base = short_directory("relay-call-")
    env = {**without_coverage(), "DBT_RELAY_RUNTIME_DIR": str(base / "r"), "DBT_RELAY_WORKERS": "1"}
    (base / "start").mkdir()
    subprocess.run([str(BIN / "dbt-relay"), "up"], cwd=base / "start",
                   env={**env, "TZ": "Europe/Berlin", "PYTHONPATH": "src"}, check=True, timeout=120)  # fmt: skip
    (base / "start").rmdir()
    yield env
    subprocess.run([str(BIN / "dbt-relay"), "down"], env=env, check=True, timeout=60)
    subprocess.run(["rm", "-rf", str(base)], check=True)


def call(
    program: str, project: Path, env: Mapping[str, str], *select: str
) -> subprocess.CompletedProcess[bytes]:
    """Run ``dbt run --select …`` from a shell that sets a umask and limits."""
    done = subprocess.run(
        ["sh", "-c", 'umask 027; ulimit -S -c 0; ulimit -S -f 4000000; ulimit -S -s 4096; exec "$0" "$@"', str(BIN / program), "run", "--select", *select],
        cwd=project, env={**env, "RELAY_TEST_DUCKDB": str(project / "warehouse.duckdb")}, capture_output=True,
        check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def written_lines(done: subprocess.CompletedProcess[bytes]) -> tuple[list[str], list[str]]:
    """Lines that models wrote to stdout and stderr, without parts that differ between processes."""
    out = done.stdout.decode(errors="backslashreplace").splitlines()
    errors = done.stderr.decode().splitlines()
    own = [line for line in out if not line.startswith("\x1b[0m")]
    return (
        [line.partition("\x1b")[0] for line in own],
        [line[line.index(".py:") :] if ".py:" in line else line for line in errors],
    )


def test_warm_stack_has_the_results_of_plain_dbt_for_each_caller(
    stack: dict[str, str], copy_project: Copy, tmp_path: Path
) -> None:
    ours, theirs = copy_project("caller"), copy_project("caller", tmp_path / "plain")
    env = {
        **stack, "TZ": "Pacific/Kiritimati", "TMPDIR": str(tmp_path), "PYTHONPATH": "relay_test_path",
        "RELAY_TEST_BYTES": os.fsdecode(b"\xff"),
    }  # fmt: skip
    for project in (ours, theirs):
        (project / "relay_test_path").mkdir()
    for value in ("one", "two"):
        for project in (ours, theirs):
            (project / "relay_test_path" / "relay_test_code.py").write_text(f'VALUE = "{value}"\nuses = 0\n')
        relay, plain = (
            call(program, project, env, "imported", "inherited", "said", "zone")
            for program, project in (("dbt-relay", ours), ("dbt", theirs))
        )
        assert written_lines(relay) == written_lines(plain)
        for table in ("imported", "zone"):
            assert rows(ours / "warehouse.duckdb", table) == rows(theirs / "warehouse.duckdb", table)
        here, there = (
            json.loads(rows(project / "warehouse.duckdb", "inherited")[0][0]) for project in (ours, theirs)
        )
        assert {**here, "cwd": str(theirs), "path": there["path"]} == there
        assert len(here["path"]) == 1
        for made in ("warehouse.duckdb", "target", "target/manifest.json", "target/run_results.json"):
            assert stat.S_IMODE((ours / made).stat().st_mode) == stat.S_IMODE((theirs / made).stat().st_mode)
    assert not list((Path(stack["DBT_RELAY_RUNTIME_DIR"]) / "up" / "env").iterdir())


def test_runner_returns_stderr_separately(
    stack: dict[str, str], copy_project: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_project("caller")
    runner = DbtRunner(project, environ={**stack, "RELAY_TEST_DUCKDB": str(project / "warehouse.duckdb")})
    result = runner.execute_command(["run", "--select", "said"])
    shown = capsys.readouterr()
    assert result.stdout == shown.out
    assert result.stderr == shown.err
    assert "descriptor of stderr" in result.stderr.splitlines()
    assert "descriptor of stderr" not in result.stdout


def test_error_with_invalid_utf8_is_stored(stack: dict[str, str], copy_project: Copy) -> None:
    project = copy_project("caller")
    (project / "models" / "raises.py").write_text(
        "import os\n\ndef model(dbt, session):\n"
        "    raise ValueError('bad ' + os.environ['RELAY_TEST_BYTES'])\n"
        "    return session.sql('select 1')\n"
    )
    environ = {
        **stack, "RELAY_TEST_DUCKDB": str(project / "warehouse.duckdb"), "RELAY_TEST_BYTES": os.fsdecode(b"caf\xe9")
    }  # fmt: skip
    result = DbtRunner(project, environ=environ).execute_command(
        ["run", "--select", "raises"], stream_output=False
    )
    assert (result.return_code, [node.status for node in result.nodes]) == (1, ["error"])
    error = result.nodes[0].error
    assert error is not None
    assert (error.code, error.attempts) == ("python_model_error", 1)
    assert "bad caf\\udce9" in error.message + error.detail


def test_worker_continues_after_its_start_folder_was_replaced(
    worker_pool: WorkerPools, redis_server: RedisServer, copy_project: Copy, duckdb_file: Path, tmp_path: Path
) -> None:
    start, project = tmp_path / "start", copy_project("caller")
    start.mkdir()
    worker_pool(n=1, cwd=start)
    start.rmdir()
    start.mkdir()
    environ = {**without_coverage(), "TZ": "Asia/Kolkata"}
    runner = DbtRunner(project, environ=environ, broker_url=redis_server.broker_url)
    result = runner.execute_command(["run", "--select", "inherited", "zone"], stream_output=False)
    assert result.success, result.stdout + result.stderr
    assert rows(duckdb_file, "zone") == [("Asia/Kolkata", "05:30")]
    seen = json.loads(rows(duckdb_file, "inherited")[0][0])
    assert (seen["cwd"], seen["zone"]) == (str(project), "05:30 IST")
