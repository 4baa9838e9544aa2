"""``dbt-relay verify``: does dbt-relay give what plain dbt gives, on this project?

What compares needs dbt and a warehouse's driver, so it is a program of the worker's side
(`workers.verify`); this is its door: the commands are read and checked, a private stack is started.
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
from producer.cli import stack as cli_stack
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

    DBT_ARGS are those of a dbt command; more commands follow after --then, and start from what those
    before them left:

    \b
        dbt-relay verify build --select +orders
        dbt-relay verify seed --then run --vars '{year: 2025}' --then test

    Each runs twice, on copies of the project and of its warehouse (DuckDB files, or a Postgres
    database), with plain dbt and with dbt-relay on worker processes of its own. Ends with 0 when
    everything is equal, 1 when something differs, 2 when it could not be compared.""",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Worker processes of dbt-relay.",
)
@click.option(
    "--measured",
    metavar="COLUMN",
    multiple=True,
    help="A column of measurements or random values: compared by where it is null and by how many "
    "different values it has. May be given again.",
)
@click.option("--plain-twice", is_flag=True, help="Plain dbt on both copies: does it equal itself?")
@click.option("--keep", is_flag=True, help="Leave project copies and DuckDB files, and say where they are.")
@click.argument("dbt_args", nargs=-1, type=click.UNPROCESSED)
def verify(
    workers: int, measured: tuple[str, ...], plain_twice: bool, keep: bool, dbt_args: tuple[str, ...]
) -> int:
    from producer.cli.main import working_directory

    job, environ = job_of(
        commands_of(dbt_args), cwd=working_directory(), environ=os.environ, measured=measured, keep=keep
    )
    cli_stack.needs("dbt.adapters", "dbt-core and an adapter", "dbt-relay[worker]")
    if plain_twice:
        return _compare(job, environ)
    with EmbeddedStack(workers=workers, environ=own_environment(environ, os.environ)) as stack:
        url = stack.start().broker_url
        code = _compare(msgspec.structs.replace(job, broker_url=url, workers=workers), environ)
        stack.check()
        return code


def commands_of(words: Sequence[str]) -> list[list[str]]:
    """The commands that `words` are, ``--then`` between.

    Raises:
        DbtUsageError: there is none, or nothing on one side of a ``--then``.
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
    """Start the program that compares, and wait for it; its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.verify"], cwd=Path(job.project_dir), env=environ,
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101
    with process.stdin as lifeline:  # it stops when this closes, whatever becomes of us
        lifeline.write(msgspec.json.encode(job) + b"\n")
        lifeline.flush()
        try:
            return process.wait()
        except KeyboardInterrupt:
            lifeline.close()
            process.wait()
            raise
