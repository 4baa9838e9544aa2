"""The documented example of `DbtRunner`, run verbatim in a folder with ./dbt and no broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import psutil

from tests.support.processes import without_coverage
from tests.support.projects import ROOT, copy_project

EXAMPLE = """\
from producer import DbtRunner

runner = DbtRunner()                       # project in ./dbt, threads=4, embedded stack if no broker is set
res = runner.execute_command(["run", "--select", "int_*"],
                             simulation_year=2026, dbt_vars={"cola_rate": 0.01})
assert res.success, res.stdout[-500:]
res = runner.execute_command(["run"], stream_output=True, on_line=lambda l: print(f"> {l}"))
results = runner.run_models(["int_model_a", "int_model_b"], parallel=True)
assert all(r.success for r in results)
"""
LOOK = """\
import duckdb
print("year:", duckdb.connect("dbt/verbatim.duckdb").sql("select simulation_year from int_model_a").fetchall())
"""


def test_documented_example_runs_verbatim_and_leaves_no_process(tmp_path: Path) -> None:
    copy_project("verbatim", tmp_path / "dbt")
    (tmp_path / "example.py").write_text(EXAMPLE + LOOK)
    mark = f"RELAY_TEST_MARK={os.getpid()}-{tmp_path.name}"
    name, value = mark.split("=")
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**without_coverage(), "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "> " in done.stdout
    assert "OK created sql table model main.int_model_a" in done.stdout
    assert "year: [(2025,)]" in done.stdout  # the file is closed, and the last run had no vars
    with duckdb.connect(str(tmp_path / "dbt" / "verbatim.duckdb")) as connection:
        assert connection.sql("select simulation_year from fct_model").fetchall() == [(2025,)]
    assert [process for process in psutil.process_iter() if _marked(process, name, value)] == []


def _marked(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return process.environ().get(name) == value
    except psutil.Error:
        return False
