"""Text of the command line on stdout and stderr: dbt's lines, and errors with their suggested fix."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from producer.cli.help import OWN_COMMANDS
from producer.dbt_cli.options import subcommands
from producer.following.streams import say
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.errors import DbtError, DbtUsageError, ErrorInfo


def working_directory() -> Path:
    """Return the working directory. Raises DbtUsageError when it was removed."""
    try:
        return Path.cwd()
    except OSError as error:
        raise usage_error(
            "no_working_directory",
            f"The working directory cannot be used: {error.strerror}",
            "Change to the folder of your dbt project.",
        ) from None


def print_line(line: str) -> None:
    """Print a line of dbt at once. A closed or full stdout does not stop the run, as it does not stop dbt's."""
    say(sys.stdout, line)


def print_error(error: DbtError, words: Sequence[str] = ()) -> None:
    """Print an error on stderr: dbt's usage lines where it has some, its message, and its fix.

    Args:
        words: the command line, to suggest commands with similar names.
    """
    info = error.info
    if info is None:
        say(sys.stderr, f"Error: {error}")
        return
    message, fix = info.message, info.suggested_fix
    if info.code == "unknown_command" and words:
        near = did_you_mean(words[0], (*subcommands(""), *OWN_COMMANDS))
        if near and message.startswith(f"No such command {words[0]!r}."):
            message, fix = f"No such command {words[0]!r}.{near}", ""
    if isinstance(error, DbtUsageError):
        detail = info.detail
    else:
        message, detail = str(error), ""  # the text has everything
    lines = [detail, ""] if detail else []
    lines.append(f"Error: {message}")
    if fix and fix not in message:
        lines.append(fix)
    say(sys.stderr, "\n".join(lines))


def describe_error(error: ErrorInfo) -> str:
    """Format a classified error in one or two lines: code, node, file, message, fix."""
    text = error.code
    if error.node:
        text += f" in {error.node}"
    if error.file:
        text += f" ({error.file}" + (f", line {error.line})" if error.line else ")")
    if error.attempts > 1:
        text += f" after {error.attempts} attempts"
    text += f": {' '.join(error.message.split())}"
    return f"{text}\n  Fix: {error.suggested_fix}" if error.suggested_fix else text
