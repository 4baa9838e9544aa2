"""Scenarios of trials: a project, a warehouse with the tables of an earlier run, and a command."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.chaos.journal import Journal
from tests.support.postgres_server import PostgresServer
from tests.support.processes import without_coverage
from tests.support.projects import copy_project
from workers.verify.rules import Rules
from workers.verify.sides import Outcome, Side, environment, relay_program
from workers.verify.warehouses import DuckDBFile, PostgresDatabase, Warehouse


@dataclass(frozen=True)
class Scenario:
    """A command and its preparation.

    Attributes:
        project: a folder of tests/projects, or ``demo``.
        before: commands that create the tables which the run finds.
        command: the command that is disturbed.
        changes: SQL that is executed between the two.
        at_least_once: relation, without schema → steps that add rows on each execution. If such a step runs again
            after its commit, its rows may be there twice: neither the ledger nor dbt can undo a commit.
    """

    project: str
    postgres: bool
    before: tuple[str, ...]
    command: tuple[str, ...]
    changes: tuple[str, ...] = ()
    at_least_once: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _both(name: str, **facts: object) -> dict[str, Scenario]:
    return {
        f"{name}-{'postgres' if postgres else 'duckdb'}": Scenario(
            project=name, postgres=postgres, **facts  # type: ignore[arg-type]
        )
        for postgres in (False, True)
    }  # fmt: skip


SCENARIOS: Final[Mapping[str, Scenario]] = {
    **_both(
        "demo",
        before=("build", "--vars", "{simulation_year: 2025}"),
        command=("build", "--vars", "{simulation_year: 2026}"),
        at_least_once={"simulation_run_log": ("@start", "@close")},
    ),
    **_both(
        "features",
        before=("build",),
        changes=(
            "insert into main.raw_orders values (7, 3, date '2025-01-06', 3.5, 'paid')",
            "update main.raw_orders set status = 'returned' where order_id = 2",
            "delete from main.raw_customers where customer_id = 3",
        ),
        command=("build", "--exclude", "resource_type:seed", "--vars", "{region: all}"),
        at_least_once={
            "run_audit": ("@start", "@close"),
            "hook_log": ("model.features.customer_totals",),
            "never_refreshed": ("model.features.never_refreshed",),
        },
    ),
    **_both(
        "chaos",
        before=("build",),
        command=("build", "--vars", "{year: 2026}"),
        at_least_once={"run_log": ("@start", "@close", "model.chaos.by_year")},
    ),
}


class Store(Protocol):
    """A warehouse that can be reset to a saved state."""

    warehouse: Warehouse
    env: Mapping[str, str]

    def save(self) -> None:
        """Save the state."""

    def reset(self) -> None:
        """Restore the saved state."""

    def close(self) -> None:
        """Remove the warehouse."""


class DuckDBStore:
    """A DuckDB file."""

    def __init__(self, file: Path) -> None:
        self.file, self._saved = file, file.with_suffix(".saved")
        self.warehouse = DuckDBFile(file)
        self.env = {"DATABASE_PATH": str(file), "RELAY_TEST_DUCKDB": str(file)}

    def save(self) -> None:
        """See `Store`."""
        shutil.copy(self.file, self._saved)

    def reset(self) -> None:
        """See `Store`."""
        self.file.with_name(f"{self.file.name}.wal").unlink(missing_ok=True)
        shutil.copy(self._saved, self.file)

    def close(self) -> None:
        """See `Store`."""
        self.file.unlink(missing_ok=True)
        self._saved.unlink(missing_ok=True)


class PostgresStore:
    """A database of a Postgres server."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server, self.name = server, name
        self._execute(f"create database {name}")
        database = server._database(name)
        self.warehouse = PostgresDatabase(database.connect, name)
        self.env = {**database.env, "DBT_TARGET": "postgres", "RELAY_TEST_TARGET": "postgres"}

    def save(self) -> None:
        """See `Store`."""
        self._execute(f"create database {self.name}_saved template {self.name}")

    def reset(self) -> None:
        """See `Store`."""
        self._execute(f"drop database {self.name} with (force)")
        self._execute(f"create database {self.name} template {self.name}_saved")

    def close(self) -> None:
        """See `Store`."""
        for name in (self.name, f"{self.name}_saved"):
            self._execute(f"drop database if exists {name} with (force)")

    def _execute(self, sql: str) -> None:
        with contextlib.closing(self._server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)


class Arena:
    """A prepared scenario: its project, its warehouse, and the outcome of an undisturbed run.

    Args:
        folder: for the project and its warehouse.
        broker_url: of the caller.
        postgres: a running server, for scenarios on Postgres.
    """

    def __init__(self, name: str, folder: Path, broker_url: str, postgres: PostgresServer) -> None:
        self.name, self.scenario = name, SCENARIOS[name]
        self.store: Store
        if self.scenario.postgres:
            self.store = PostgresStore(postgres, name.replace("-", "_"))
        else:
            self.store = DuckDBStore(folder / "warehouse.duckdb")
        copy_project(self.scenario.project, folder / "project")
        env = {**environment(without_coverage()), **self.store.env, "DBT_RELAY_BROKER_URL": broker_url}
        self._side = Side("undisturbed", folder, relay_program(), self.store.warehouse, env)
        self.baseline: Outcome | None = None
        self.steps: frozenset[str] = frozenset()

    @property
    def rules(self) -> Rules:
        """Rules of the undisturbed run."""
        return self._side.rules

    def prepare(self, journal: Journal) -> None:
        """Create the tables which each run finds, and execute the undisturbed run.

        Raises:
            AssertionError: a command failed.
        """
        self._run(self.scenario.before)
        for sql in self.scenario.changes:
            self.store.warehouse.execute(sql)
        self.store.save()
        self._before = copy.deepcopy(self._side.rules.windows)
        self.baseline = self._run(self.scenario.command)
        self.steps = frozenset(each.step for each in journal.executions(journal.latest()))

    def connect(self, broker_url: str) -> None:
        """Let callers use another broker from now on."""
        self._side.environ = {**self._side.environ, "DBT_RELAY_BROKER_URL": broker_url}

    def _run(self, command: Sequence[str]) -> Outcome:
        outcome = self._side.run(command, {})
        assert outcome.return_code == 0, "\n".join([*outcome.lines[-40:], outcome.stderr])
        return outcome

    def reset(self) -> Side:
        """Reset project and warehouse for a disturbed run. Returns its side."""
        self.store.reset()
        shutil.rmtree(self._side.project / "target", ignore_errors=True)
        side = copy.copy(self._side)
        side.rules = Rules(str(side.folder), side.warehouse.database, copy.deepcopy(self._before))
        return side
