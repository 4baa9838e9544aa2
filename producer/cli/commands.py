"""dbt-relay's own commands, put together. Loaded for them alone: click takes its time to import."""

from __future__ import annotations

from collections.abc import Sequence

import click

from producer.cli import drain, purge, runs, verify
from producer.cli import stack as cli_stack

COMMANDS: tuple[click.Command, ...] = (
    cli_stack.up,
    cli_stack.down,
    cli_stack.status,
    cli_stack.worker,
    cli_stack.flower,
    runs.runs,
    runs.watch,
    runs.result,
    runs.cancel,
    drain.drain,
    purge.purge,
    verify.verify,
    runs.demo,
)

group = click.Group(
    commands={str(command.name): command for command in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_own(words: Sequence[str]) -> int:
    """Run one of dbt-relay's own commands; its exit code, 2 when the words are not understood.

    Raises:
        DbtError: it could not be done.
    """
    try:
        code = group.main(args=list(words), prog_name="dbt-relay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # click's for a Ctrl-C, which says what was interrupted
        raise (error.__cause__ or KeyboardInterrupt()) from None
    return code if isinstance(code, int) else 0
