"""Runs a verification: copies project and warehouse twice, runs and compares each command, removes the copies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from workers.contract.errors import DbtUsageError
from workers.contract.verify_job import DIFFERENT, EQUAL, REFUSED, VerifyCommand, VerifyJob
from workers.engine.project.profile import Target, read_target
from workers.verify.compare import Allowance
from workers.verify.duckdb_copy import DuckDBSource
from workers.verify.pair import Command, Pair, Report
from workers.verify.postgres_copy import PostgresSource
from workers.verify.profile_copy import write_profiles
from workers.verify.project_copy import copy_project
from workers.verify.report import Reporter
from workers.verify.sides import Side, dbt_program, environment, relay_program
from workers.verify.warehouses import Warehouse

SUPPORTED = (
    "verify supports only DuckDB files and Postgres databases: choose a target on one of them with --target."
)

PLAIN, RELAY = "plain", "relay"


def verify(job: VerifyJob, environ: Mapping[str, str], out: TextIO) -> int:
    """Compare plain dbt and dbt-relay on copies of a project. The working directory is the project's folder.

    Stops after the first command that differs, because later commands would start from different warehouses.

    Args:
        environ: environment of the commands.
        out: where the report is printed.

    Returns:
        `EQUAL`, `DIFFERENT`, or `REFUSED` when dbt itself cannot run a command, on both sides.

    Raises:
        DbtUsageError: the warehouse cannot be copied.
    """
    project = Path(job.project_dir)
    targets = _targets(job.commands)
    source = source_of(targets, project)
    reporter = Reporter(out, plain_twice=not job.broker_url)
    allowance = Allowance(measured=Allowance().measured | set(job.measured))
    with _folders(keep=job.keep, reporter=reporter) as folders, source.copies(folders) as warehouses:
        target_paths = [project / command.target_path for command in job.commands]
        for folder in folders.values():
            _copy(project, folder / "project", [*source.files, *target_paths])
        sides = {}
        for name, (warehouse, changes) in warehouses.items():
            write_profiles(folders[name] / "profiles", targets, changes)
            sides[name] = _side(name, folders[name], warehouse, environ, job.broker_url)
        _print_header(reporter, targets, source, job)
        pair = Pair(sides[PLAIN], sides[RELAY], allowance)
        return _run_all(
            pair, [Command(each.args, target=each.target_path) for each in job.commands], reporter
        )


def source_of(targets: Sequence[Target], project: Path) -> DuckDBSource | PostgresSource:
    """The warehouse that all `targets` use.

    Raises:
        DbtUsageError: there are several, or it cannot be copied.
    """
    sources: dict[tuple[str, ...], DuckDBSource | PostgresSource] = {}
    for target in targets:
        source: DuckDBSource | PostgresSource
        if target.adapter == "duckdb":
            source = DuckDBSource(target.credentials, project)
        elif target.adapter == "postgres":
            source = PostgresSource(target.credentials)
        else:
            raise DbtUsageError(
                f"The target {target.name} of the profile {target.profile} is on {target.adapter}.\n{SUPPORTED}"
            )
        sources[source.key] = source
    if len(sources) > 1:
        raise DbtUsageError(
            f"The commands use several warehouses: {', '.join(map(str, sources.values()))}.\n"
            "Verify them one by one."
        )
    return next(iter(sources.values()))


def _targets(commands: Sequence[VerifyCommand]) -> list[Target]:
    found = {}
    for command in commands:
        if command.reads_profile:
            try:
                target = read_target(command.args)
            except DbtUsageError as error:
                if "adapter type" in str(error):  # dbt lacks the adapter (dbt.adapters.factory)
                    raise DbtUsageError(f"{error}\n{SUPPORTED}") from error
                raise
            found[target.profile, target.name] = target
    if not found:
        raise DbtUsageError(
            "None of these commands uses a warehouse: there is nothing to compare.\n"
            "Add a command that does: --then build"
        )
    return list(found.values())


@contextmanager
def _folders(*, keep: bool, reporter: Reporter) -> Iterator[dict[str, Path]]:
    root = Path(tempfile.mkdtemp(prefix="dbt-relay-verify-")).resolve()
    try:
        yield {PLAIN: root / PLAIN, RELAY: root / RELAY}
    finally:
        if keep:
            reporter.line(f"The copies are kept in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def _copy(project: Path, destination: Path, leave_out: Sequence[Path]) -> None:
    try:
        copy_project(project, destination, leave_out)
    except (OSError, shutil.Error) as error:
        raise DbtUsageError(
            f"The project {project} cannot be copied to {destination}: {error}\n"
            "Set TMPDIR to use another folder for temporary files."
        ) from error


def _side(name: str, folder: Path, warehouse: Warehouse, environ: Mapping[str, str], broker_url: str) -> Side:
    values = {**environment(environ), "DBT_PROFILES_DIR": str(folder / "profiles")}
    if "DBT_PROJECT_DIR" in values:
        values["DBT_PROJECT_DIR"] = str(folder / "project")
    if name == PLAIN or not broker_url:
        return Side(name, folder, dbt_program(), warehouse, values)
    return Side(name, folder, relay_program(), warehouse, {**values, "DBT_RELAY_BROKER_URL": broker_url})


def _print_header(reporter: Reporter, targets: Sequence[Target], source: Any, job: VerifyJob) -> None:
    names = ", ".join(f"{target.profile}.{target.name}" for target in targets)
    other = f"dbt-relay with {job.workers} worker processes" if job.broker_url else "plain dbt once more"
    reporter.line(f"Project {job.project_dir}, target {names}: {source}")
    reporter.line(f"Copied twice: plain dbt on one copy, {other} on the other.")


def _run_all(pair: Pair, commands: Sequence[Command], reporter: Reporter) -> int:
    report = Report()
    for number, command in enumerate(commands, start=1):
        plain, relay, seen = pair.run(command)
        report.add(command, seen)
        reporter.command(command, plain, relay, seen)
        if seen.differences:
            reporter.end(report, len(commands) - number)
            return DIFFERENT
        if plain.gave_up:
            reporter.gave_up()
            return REFUSED
    reporter.end(report, 0)
    return EQUAL
