"""dbt-relay's own commands as one click group. A dbt command does not import it: click takes time to import."""

from __future__ import annotations

from collections.abc import Sequence

import click

from producer.cli import demo, drain, flower, purge, runs, stack, verify, worker

COMMANDS: tuple[click.Command, ...] = (
    stack.up,
    stack.down,
    stack.status,
    worker.worker,
    flower.flower,
    runs.runs,
    runs.watch,
    runs.result,
    runs.cancel,
    drain.drain,
    purge.purge,
    verify.verify,
    demo.demo,
)

group = click.Group(
    commands={str(command.name): command for command in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_own(words: Sequence[str]) -> int:
    """Run one of dbt-relay's own commands and return its exit code; 2 for invalid arguments.

    Raises:
        DbtError: the command failed.
    """
    try:
        code = group.main(args=list(words), prog_name="dbt-relay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # click replaces KeyboardInterrupt, whose text says what was interrupted
        raise (error.__cause__ or KeyboardInterrupt()) from None
    return code if isinstance(code, int) else 0
