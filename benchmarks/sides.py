"""The ways that execute dbt commands of a user's script, each on its own copy of a project and DuckDB file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import duckdb

from benchmarks.measure import ROOT
from benchmarks.projects import environment
from benchmarks.stacks import Stack, succeeded
from producer.runner import DbtRunner

DBT = Path(sys.executable).with_name("dbt")
COMMAND, INSIDE, RELAY = "dbt command", "dbtRunner", "dbt-relay"

Execute = Callable[[Sequence[str]], None]
"""Runs a dbt command; raises if it failed."""


def of_the_run(column: str) -> bool:
    """Whether a column has the time or the invocation id of a run."""
    return column in {"invocation_id", "run_started_at"}


def copy_of(project: Path, folder: Path) -> Path:
    """Copy a project without generated files."""
    generated = shutil.ignore_patterns("target", "logs", "*.duckdb", "dbt_packages")
    return Path(shutil.copytree(project, folder, ignore=generated))


def demonstration(folder: Path) -> Path:
    """Copy the demo project and install its packages."""
    copy_of(ROOT / "dbt", folder)
    subprocess.run([DBT, "deps"], cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def dbt_environment(database: Path) -> dict[str, str]:
    """Environment of dbt with a DuckDB file."""
    return {**environment(), "DATABASE_PATH": str(database)}


def as_command(folder: Path, database: Path) -> Execute:
    """Run each command as a ``dbt`` process."""
    env = dbt_environment(database)
    return lambda args: _done(
        subprocess.run([DBT, *args], cwd=folder, env=env, check=True, capture_output=True)
    )


def _done(_: object) -> None:
    return None


def on_relay(stack: Stack, folder: Path, database: Path) -> Execute:
    """Run each command with `DbtRunner` on a warm stack."""
    runner = DbtRunner(
        folder, threads=None, broker_url=stack.server.broker_url, environ=dbt_environment(database)
    )
    return lambda args: _done(succeeded(runner.execute_command(args, stream_output=False)))


class Inside:
    """``dbtRunner`` in a persistent process, with dbt's partial parse. Each call is one invocation.

    Attributes:
        began: start of the first node of the last invocation, seconds since the epoch; 0 if there was none.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.began = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sides"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**dbt_environment(database), "PYTHONPATH": str(ROOT)}, cwd=folder,
        )  # fmt: skip

    def __call__(self, args: Sequence[str]) -> None:
        """Run a command. Raises RuntimeError if dbt failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(list(args)), file=self._process.stdin, flush=True)
        status, _, began = self._process.stdout.readline().partition(" ")
        if status != "done":
            raise RuntimeError(f"dbtRunner, {list(args)}: {began or 'the process ended'}")
        self.began = float(began)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def inside(folder: Path, database: Path) -> Iterator[Inside]:
    """Yield an `Inside` that is closed at the end of the block."""
    with closing(Inside(folder, database)) as process:
        yield process


@contextmanager
def sides(project: Path, folder: Path, stack: Stack) -> Iterator[dict[str, Execute]]:
    """Yield the three ways, each with its own copy of `project` and DuckDB file (`database`)."""
    with ExitStack() as opened:
        copies = {name: Path(shutil.copytree(project, folder / name)) for name in (COMMAND, INSIDE, RELAY)}
        yield {
            COMMAND: as_command(copies[COMMAND], database(folder, COMMAND)),
            INSIDE: opened.enter_context(inside(copies[INSIDE], database(folder, INSIDE))),
            RELAY: on_relay(stack, copies[RELAY], database(folder, RELAY)),
        }


def database(folder: Path, name: str) -> Path:
    """The DuckDB file of a way."""
    return folder / f"{name}.duckdb"


def differences(one: Path, other: Path, left_out: Callable[[str], bool] = of_the_run) -> list[str]:
    """Compare two DuckDB files. Returns relations that only one has, and those with different rows."""
    with duckdb.connect() as connection:
        for name, path in (("one", one), ("other", other)):
            connection.execute(f"attach '{path}' as {name} (read_only)")
        found = {name: _columns(connection, name) for name in ("one", "other")}
        found_differences = [
            f"{relation} is on one side only" for relation in sorted(set(found["one"]) ^ set(found["other"]))
        ]
        for relation in sorted(set(found["one"]) & set(found["other"])):
            if found["one"][relation] != found["other"][relation]:
                found_differences.append(f"{relation} has other columns")
                continue
            columns = ", ".join(f'"{each}"' for each in found["one"][relation] if not left_out(each))
            rows = {name: f"select {columns} from {name}.{relation}" for name in ("one", "other")}
            for here, there in (("one", "other"), ("other", "one")):
                sql = f"select count(*) from ({rows[here]} except all {rows[there]})"
                (more,) = connection.execute(sql).fetchone() or (0,)
                found_differences += [f"{relation}: {more} rows are on one side only"] if more else []
    return found_differences


def _columns(connection: duckdb.DuckDBPyConnection, name: str) -> Mapping[str, list[str]]:
    sql = (
        "select table_schema, table_name, column_name from information_schema.columns "
        "where table_catalog = ? order by all"
    )
    found: dict[str, list[str]] = {}
    for schema, table, column in connection.execute(sql, [name]).fetchall():
        # a view cannot be read here: it names its database, which has another name
        found.setdefault(f'"{schema}"."{table}"', []).append(column)
    sql = "select schema_name, view_name from duckdb_views() where database_name = ? and not internal"
    for schema, view in connection.execute(sql, [name]).fetchall():
        found.pop(f'"{schema}"."{view}"', None)
    return found


def serve(answers: TextIO) -> None:
    """Run the command of each line of stdin until it ends."""
    from dbt.cli.main import dbtRunner

    began: list[float] = []

    def on_event(event: Any) -> None:
        if event.info.name == "LogStartLine":  # dbt's "1 of 1 START"
            began.append(time.time())

    runner = dbtRunner(callbacks=[on_event])
    for line in sys.stdin:
        began.clear()
        done = runner.invoke(json.loads(line))
        answer = f"done {next(iter(began), 0.0)}" if done.success else f"failed {done.exception}"
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as out, open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        serve(out)
