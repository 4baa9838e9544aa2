"""A script written for the ``dbt`` executable runs unchanged with ``dbt-relay`` in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import without_coverage
from tests.support.projects import copy_project

SCRIPT = Path(__file__).with_name("drop_in_script.py")
BIN = Path(sys.executable).parent


def run_script(executable: str, project: Path, runtime_dir: Path, calls: int) -> list[dict[str, Any]]:
    env = {**without_coverage(), "DBT_RELAY_RUNTIME_DIR": str(runtime_dir)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), executable, str(project), str(calls)], env=env, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ten_calls_in_a_row(tmp_path: Path) -> None:
    runtime_dir = tmp_path / "r"
    env = {**without_coverage(), "DBT_RELAY_RUNTIME_DIR": str(runtime_dir)}
    relay = str(BIN / "dbt-relay")
    subprocess.run([relay, "up", "--workers", "2"], env=env, check=True, capture_output=True, timeout=120)
    try:
        ours = run_script(relay, copy_project("demo", tmp_path / "ours"), runtime_dir, 10)
    finally:
        subprocess.run([relay, "down"], env=env, check=True, capture_output=True, timeout=60)
    plain = run_script(str(BIN / "dbt"), copy_project("demo", tmp_path / "plain"), runtime_dir, 2)
    for call in (*ours, *plain):
        print(f"{' '.join(call['args']):30} {call.pop('seconds'):6.2f} s")
    assert ours[:2] == plain
    assert all(call == plain[1] for call in ours[2:])
