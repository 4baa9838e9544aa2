"""The two sides: plain ``dbt`` in a process of its own, and dbt-relay on live workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parity.rules import Rules, Window
from tests.parity.warehouses import Relation, Warehouse


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


@dataclass
class Side:
    """A copy of the project with its warehouse. `run` is what differs between the two sides."""

    name: str
    folder: Path
    warehouse: Warehouse
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rules = Rules(str(self.folder), self.warehouse.database)
        self.refused = False

    @property
    def project(self) -> Path:
        """The project's copy."""
        return self.folder / "project"

    def execute(self, args: Sequence[str], env: Mapping[str, str]) -> tuple[int, list[str], str]:
        """Run a command: its exit code, dbt's console lines, and what else was said."""
        raise NotImplementedError

    def run(self, args: Sequence[str], env: Mapping[str, str], target: str = "target") -> Outcome:
        """Run a command and look at everything it left."""
        folder = self.project / target
        before = _changed_at(folder / "run_results.json")
        for name in ("compiled", "run"):
            shutil.rmtree(folder / name, ignore_errors=True)
        self.refused = False
        window = Window(began=time.time(), ended=float("inf"))
        self.rules.windows.append(window)
        code, lines, stderr = self.execute(args, {**self.env, **env})
        window.ended = time.time()
        rewritten = _changed_at(folder / "run_results.json") != before
        run_results = _json(folder / "run_results.json") if rewritten else None
        manifest = _json(folder / "manifest.json")
        for artifact in (run_results, manifest):
            if artifact is not None and window.invocation_id is None:
                window.invocation_id = artifact["metadata"]["invocation_id"]
        return Outcome(
            return_code=code, lines=lines, run_results=run_results, manifest=manifest,
            files=_files(folder), relations=self.warehouse.relations(), stderr=stderr,
            refused=self.refused,
        )  # fmt: skip


class PlainDbt(Side):
    """``dbt`` as a user starts it."""

    def execute(self, args: Sequence[str], env: Mapping[str, str]) -> tuple[int, list[str], str]:
        """See `Side`."""
        program = Path(sysconfig.get_path("scripts")) / "dbt"
        done = subprocess.run(
            [str(program), *args], cwd=self.project, env={**_environment(), **env}, text=True,
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines(), done.stderr


class Relay(Side):
    """dbt-relay on the workers of a broker. Set `broker_url` before the first command."""

    broker_url = ""

    def execute(self, args: Sequence[str], env: Mapping[str, str]) -> tuple[int, list[str], str]:
        """See `Side`."""
        from producer import DbtRunner
        from workers.contract.errors import DbtUsageError

        environ = {**_environment(), **env, "DBT_RELAY_BROKER_URL": self.broker_url}
        runner = DbtRunner(self.project, threads=0, environ=environ)
        try:
            result = runner.execute_command(list(args), stream_output=False)
        except DbtUsageError as error:
            self.refused = True
            return 2, [], str(error)
        return result.return_code, result.stdout.splitlines(), result.stderr


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DBT_")}
    return {**kept, "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "", "PATH": _path()}


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


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
