"""The two sides: plain ``dbt``, and ``dbt-relay`` on live workers, each started as a user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.verify.rules import Rules, Window
from workers.verify.warehouses import Relation, Warehouse

REFUSED = 2
"""How dbt ends when it could not do it; dbt-relay, with no line of dbt, when it sees so beforehand."""


@dataclass
class Outcome:
    """What a command left behind on a side."""

    return_code: int
    lines: list[str]
    run_results: dict[str, Any] | None
    manifest: dict[str, Any] | None
    files: dict[str, str]
    """Text of every file below target/compiled and target/run; other artifacts by name alone."""
    relations: dict[str, Relation]
    stderr: str = ""
    refused: bool = False
    """dbt-relay saw that dbt could not do it, said so and queued nothing: there are no lines."""

    @property
    def gave_up(self) -> bool:
        """Whether dbt could not do it at all (dbt.cli.exceptions: exit code 2), and ran nothing."""
        return self.return_code == REFUSED and self.run_results is None


@dataclass
class Side:
    """A copy of the project with its warehouse, and the program that runs commands there.

    Attributes:
        name: ``plain`` or ``relay``.
        folder: holds the copy as ``project``, and whatever else is the side's own.
        program: the first words of a command line: dbt's program, or dbt-relay's.
        environ: the whole environment of a command.
    """

    name: str
    folder: Path
    program: Sequence[str]
    warehouse: Warehouse
    environ: Mapping[str, str]

    def __post_init__(self) -> None:
        self.rules = Rules(str(self.folder), self.warehouse.database)

    @property
    def project(self) -> Path:
        """The project's copy."""
        return self.folder / "project"

    def run(self, args: Sequence[str], env: Mapping[str, str], target: str = "target") -> Outcome:
        """Run a command and look at everything it left."""
        folder = self.project / target
        before = _changed_at(folder / "run_results.json")
        for name in ("compiled", "run"):
            shutil.rmtree(folder / name, ignore_errors=True)
        window = Window(began=time.time(), ended=float("inf"))
        self.rules.windows.append(window)
        done = subprocess.run(
            [*self.program, *args], cwd=self.project, env={**self.environ, **env}, text=True,
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        window.ended = time.time()
        rewritten = _changed_at(folder / "run_results.json") != before
        run_results = _json(folder / "run_results.json") if rewritten else None
        manifest = _json(folder / "manifest.json")
        for artifact in (run_results, manifest):
            if artifact is not None and window.invocation_id is None:
                window.invocation_id = artifact["metadata"]["invocation_id"]
        return Outcome(
            return_code=done.returncode, lines=done.stdout.splitlines(), run_results=run_results,
            manifest=manifest, files=_files(folder), relations=self.warehouse.relations(),
            stderr=done.stderr, refused=done.returncode == REFUSED and not done.stdout,
        )  # fmt: skip


def dbt_program() -> list[str]:
    """Plain dbt, of the environment that this process runs in: the workers' own."""
    return [str(Path(sysconfig.get_path("scripts")) / "dbt")]


def relay_program() -> list[str]:
    """``dbt-relay``, of the same environment."""
    return [sys.executable, "-m", "producer"]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What both sides see of `environ`: all but dbt-relay's own settings."""
    kept = {name: value for name, value in environ.items() if not name.startswith("DBT_RELAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    return {**kept, "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "", "PATH": path}


def _changed_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        plain: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return plain


def _files(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            kept = name.startswith(("compiled/", "run/"))
            found[name] = path.read_text() if kept else ""
    return found
