"""``dbt-relay retry RUN``: finds the run on the command line of ``dbt retry``."""

from __future__ import annotations

from collections.abc import Sequence

from producer.dbt_cli.options import Table
from producer.dbt_cli.words import checked_words, read_words


def named_run(words: Sequence[str], table: Table | None = None) -> tuple[str, list[str]] | None:
    """Split a command line into the run that it names and the command line without it.

    Returns:
        None where the command is not ``retry``, or does not name exactly one run.

    Raises:
        DbtUsageError: dbt would refuse the command line.
    """
    line = checked_words(words)
    levels = read_words(line, table)
    last = levels[-1]
    if last.command.words != "retry" or len(last.positional) != 1:
        return None
    options = {place for level in levels for one in level.given for place in range(one.start, one.end)}
    run = last.positional[0]
    place = max(at for at, word in enumerate(line) if word == run and at not in options)
    return run, [word for at, word in enumerate(line) if at != place]
