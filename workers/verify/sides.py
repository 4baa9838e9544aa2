"""The two sides of a comparison: the commands ``dbt`` and ``dbt-relay``, each on a copy of the project."""

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
"""Exit code of dbt for a command that it cannot run, and of dbt-relay, which may detect that before dbt."""


@dataclass
class Outcome:
    """Everything that a command left on a side."""

    return_code: int
    lines: list[str]
    run_results: dict[str, Any] | None
    manifest: dict[str, Any] | None
    files: dict[str, str]
    """Path in the target folder → text, for compiled and run SQL; other files have an empty text."""
    relations: dict[str, Relation]
    stderr: str = ""
    refused: bool = False
    """Whether dbt-relay rejected the command without queueing a run: then there are no lines."""

    @property
    def gave_up(self) -> bool:
        """Whether dbt could not run the command (dbt.cli.exceptions: exit code 2)."""
        return self.return_code == REFUSED and self.run_results is None


@dataclass
class Side:
    """A copy of the project and its warehouse, and the program that runs commands on it.

    Attributes:
        name: ``plain`` or ``relay``.
        folder: contains the copy as ``project``, and the side's other files.
        program: start of the command line, which runs dbt or dbt-relay.
        environ: environment of the commands.
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
        """Folder of the copy of the project."""
        return self.folder / "project"

    def run(self, args: Sequence[str], env: Mapping[str, str], target: str = "target") -> Outcome:
        """Run a command and collect its outcome."""
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
    """Command line of plain dbt, from this process' Python environment."""
    return [str(Path(sysconfig.get_path("scripts")) / "dbt")]


def relay_program() -> list[str]:
    """Command line of dbt-relay, from the same environment."""
    return [sys.executable, "-m", "producer"]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of both sides: `environ` without dbt-relay's settings."""
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
