"""A command without a server: its private stack ends with it, and what it did can be asked for afterwards."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.support.processes import without_coverage
from tests.support.projects import copy_project

RELAY = str(Path(sys.executable).parent / "dbt-relay")

Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two models that fail, one after them, and some that do not."""
    project = copy_project("small", tmp_path / "small")
    (project / "models" / "one_bad.sql").write_text("select nothing_like_it from {{ ref('stg_orders') }}")
    (project / "models" / "two_bad.sql").write_text("select no_such_function()")
    return project


@pytest.fixture
def shell(project: Path, tmp_path: Path) -> Shell:
    env = {**without_coverage(), "DBT_RELAY_RUNTIME_DIR": str(tmp_path / "r"), "DBT_RELAY_WORKERS": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command.replace("dbt-relay", RELAY)], cwd=project, env=env, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_a_failed_command_with_closed_streams_can_be_asked_about(
    shell: Shell, project: Path, tmp_path: Path
) -> None:
    nobody = shell("dbt-relay result latest")
    assert (nobody.returncode, "no runs are known" in nobody.stderr) == (2, True)

    failed = shell("dbt-relay build <&- >&-")
    assert failed.returncode == 1
    with duckdb.connect(str(project / "small.duckdb")) as connection:  # it built what can be built
        assert connection.sql("select count(*) from customer_totals").fetchone() != (0,)
    hint = failed.stderr.splitlines()[-1]
    run_id = hint.split("`dbt-relay result ")[1].split("`")[0]
    (kept,) = (tmp_path / "r" / "ended").iterdir()
    assert kept.name == run_id
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    asked = shell(f"dbt-relay result {run_id}")
    assert asked.returncode == 1
    assert "nothing_like_it" in asked.stdout
    assert "no_such_function" in asked.stdout
    whole = json.loads(shell("dbt-relay result latest --json").stdout)
    assert (whole["run_id"], whole["return_code"]) == (run_id, 1)
    assert run_id in shell("dbt-relay runs").stdout
    watched = shell(f"dbt-relay watch {run_id[:20]}")
    assert (watched.returncode, watched.stdout) == (1, whole["stdout"])
    assert shell(f"dbt-relay cancel {run_id}").returncode == 1

    (project / "models" / "one_bad.sql").write_text("select 1 as id")
    again = shell(f"dbt-relay retry {run_id} > /dev/full")
    assert again.returncode == 1
    second = json.loads(shell("dbt-relay result latest --json").stdout)
    assert {node["name"]: node["status"] for node in second["nodes"] if node["resource_type"] == "model"} == {
        "one_bad": "success", "two_bad": "error",
    }  # fmt: skip
