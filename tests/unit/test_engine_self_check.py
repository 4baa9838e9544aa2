"""A dbt that the engine cannot drive is refused when a worker starts, in a sentence and without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from dbt.adapters.base import BaseConnectionManager
from jinja2.sandbox import SandboxedEnvironment

from workers.engine import self_check

ROOT = Path(__file__).parents[2]


def test_installed_release_has_what_the_engine_needs() -> None:
    assert self_check.complaint() is None


def test_missing_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "NAMES", ("dbt.task.run:RunTask.no_such_method", *self_check.NAMES))
    text = self_check.complaint()
    assert text is not None
    assert "dbt.task.run.RunTask.no_such_method does not exist" in text
    assert "docs/dbt-releases.md" in text


def test_connections_that_cannot_be_fenced_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: object, name: str) -> object:
        raise NotImplementedError(name)

    monkeypatch.setattr(BaseConnectionManager, "set_connection_name", connect)
    assert "fence" in (self_check.complaint() or "")


def test_templates_that_call_past_their_environment_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(jinja2.Environment):
        call = SandboxedEnvironment.call

    monkeypatch.setattr("dbt_common.clients.jinja.MacroFuzzEnvironment", Plain)
    assert "templates do not call" in (self_check.complaint() or "")


def test_worker_says_what_is_missing_and_ends(tmp_path: Path) -> None:
    """dbt.task.printer lost a function that the engine imports, as with a release of dbt to come."""
    (tmp_path / "sitecustomize.py").write_text(
        "import dbt.task.printer\ndel dbt.task.printer.print_run_result_error\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "solo"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "dbt-relay: this worker cannot execute dbt-core" in done.stderr
    assert "print_run_result_error" in done.stderr
    assert "Traceback" not in done.stderr
