"""``dbt-relay verify``: compares dbt-relay with plain dbt on a project.

Checks the commands, starts a private stack, and starts `workers.verify`. That program compares: it needs dbt and the
warehouse's driver, so it belongs to the workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import msgspec

from producer.cli import broker
from producer.cli.console import working_directory
from producer.cli.programs import require
from producer.cli.verify_job import job_of, own_environment
from producer.embedded.stack import EmbeddedStack
from producer.usage_errors import usage_error
from workers.contract.verify_job import VerifyJob

THEN = "--then"


@click.command(
    "verify",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    help=broker.about("verify")
    + """

    DBT_ARGS is a dbt command. Further commands follow after --then; each starts from the state that the
    commands before it left:

    \b
        dbt-relay verify build --select +orders
        dbt-relay verify seed --then run --vars '{year: 2025}' --then test

    Each command runs twice, on copies of the project and of its warehouse (DuckDB files or a Postgres
    database): with plain dbt, and with dbt-relay on worker processes of its own. Exit code 0: equal;
    1: different; 2: the comparison failed.""",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Number of dbt-relay's worker processes.",
)
@click.option(
    "--measured",
    metavar="COLUMN",
    multiple=True,
    help="A column of measurements or random values: only its nulls and its number of distinct values are "
    "compared. Can be repeated.",
)
@click.option(
    "--plain-twice", is_flag=True, help="Run plain dbt on both copies, to see whether it is deterministic."
)
@click.option(
    "--keep", is_flag=True, help="Keep the copies of project and DuckDB files, and print their paths."
)
@click.argument("dbt_args", nargs=-1, type=click.UNPROCESSED)
def verify(
    workers: int, measured: tuple[str, ...], plain_twice: bool, keep: bool, dbt_args: tuple[str, ...]
) -> int:
    job, environ = job_of(
        commands_of(dbt_args), cwd=working_directory(), environ=os.environ, measured=measured, keep=keep
    )
    require("dbt.adapters", "dbt-core and an adapter", "dbt-relay[worker]")
    if plain_twice:
        return _compare(job, environ)
    with EmbeddedStack(workers=workers, environ=own_environment(environ, os.environ)) as stack:
        url = stack.start().broker_url
        code = _compare(msgspec.structs.replace(job, broker_url=url, workers=workers), environ)
        stack.check()
        return code


def commands_of(words: Sequence[str]) -> list[list[str]]:
    """Split words at each ``--then`` into commands.

    Raises:
        DbtUsageError: a command is empty.
    """
    commands: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            commands.append([])
        else:
            commands[-1].append(word)
    if not all(commands):
        raise usage_error(
            "no_dbt_command",
            "verify needs a dbt command"
            + (f" on both sides of {THEN}." if len(commands) > 1 else " to run on both sides."),
            "Write one after it: dbt-relay verify build",
        )
    return commands


def _compare(job: VerifyJob, environ: Mapping[str, str]) -> int:
    """Run `workers.verify` and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.verify"], cwd=Path(job.project_dir), env=environ,
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101
    with process.stdin as lifeline:  # the program stops when this pipe closes, even if this process is killed
        lifeline.write(msgspec.json.encode(job) + b"\n")
        lifeline.flush()
        try:
            return process.wait()
        except KeyboardInterrupt:
            lifeline.close()
            process.wait()
            raise
