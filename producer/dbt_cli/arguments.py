"""Parses dbt's command line without dbt, and refuses what dbt would refuse.

Uses a table of dbt's options (`producer.dbt_cli.options`). The worker's dbt checks rules that need all flags or the
project, such as ``--select`` together with ``--inline``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import HELP, VERSION, Command, Option, Table, packaged
from producer.dbt_cli.tables import OF_THE_TABLE
from producer.dbt_cli.values import convert
from producer.dbt_cli.vars import checked_vars, checked_year, dump_vars, load_mapping, merge_vars
from producer.dbt_cli.words import Level, check_arguments, checked_words, read_words
from producer.usage_errors import usage_error
from workers.contract.errors import DbtUsageError


def parse_invocation(
    args: Sequence[str], *, environ: Mapping[str, str], cwd: Path, table: Table | None = None
) -> Invocation:
    """Parse dbt's arguments as dbt would.

    Args:
        args: without the word ``dbt``.
        environ: environment variables, of which dbt reads some as options.
        cwd: working directory, where relative paths start.
        table: dbt's commands and options; default the packaged ones.

    Raises:
        DbtUsageError: dbt would refuse them; the text has the reason and the nearest names.
    """
    words, table = checked_words(args), table or packaged()
    levels = read_words(words, table)
    name = levels[-1].command.words
    for level in levels:
        for eager in (HELP, VERSION):
            if level.has(eager):
                return Invocation(words, level.command.words, {eager: True}, table=table)
    if not table.lenient:
        check_arguments(levels[-1])
    options: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for level in levels:
        _read_given(level, cwd, options, lenient=table.lenient)
    for level in levels:
        _read_environment(level, environ, cwd, options, environment, lenient=table.lenient)
    last = levels[-1]
    options.update(zip((argument for argument, _ in last.command.arguments), last.positional, strict=False))
    return Invocation(words, name, options, environment, table)


def parse_with_threads(
    args: Sequence[str],
    threads: int | None,
    default: int | None = None,
    *,
    environ: Mapping[str, str],
    cwd: Path,
    table: Table | None = None,
) -> Invocation:
    """Parse dbt's arguments, and add ``--threads`` where the command has this option and none was given.

    Args:
        threads: the value to add; it overrides ``DBT_THREADS``.
        default: the value to add where `threads` is None and the environment has none.

    Raises:
        DbtUsageError: as `parse_invocation`; or the command line has another number than `threads`.
    """
    invocation = parse_invocation(args, environ=environ, cwd=cwd, table=table)
    number = _threads_to_add(invocation, threads, default)
    if number is None:
        return invocation
    end = list(args).index("--") if "--" in args else len(args)
    args = [*args[:end], "--threads", str(number), *args[end:]]
    return parse_invocation(args, environ=environ, cwd=cwd, table=table)


def _threads_to_add(invocation: Invocation, threads: int | None, default: int | None) -> int | None:
    table, name = invocation.table, invocation.command
    if name not in table.command_names() or not any(
        option.name == "threads" for option in table.command(name).options
    ):
        return None
    given = invocation.options.get("threads")
    if given is None:
        return threads or default
    if "threads" in invocation.environment:  # DBT_THREADS, which the command line overrides
        return threads
    if threads is not None and given != threads:
        raise usage_error(
            "contradicting_threads", f"The command has --threads {given}, and threads={threads} was given too.",
            "Give one of them.",
        )  # fmt: skip
    return None


def with_vars(
    args: Sequence[str],
    simulation_year: int | None = None,
    dbt_vars: Mapping[str, Any] | None = None,
    *,
    table: Table | None = None,
) -> list[str]:
    """Merge `simulation_year` and `dbt_vars` into the ``--vars`` of `args`.

    Args:
        simulation_year: becomes the var of that name.
        table: as in `parse_invocation`.

    Raises:
        DbtUsageError: the three sources have different values for a var, or one is malformed.
    """
    words = checked_words(args)
    levels = read_words(words, table)
    sources: list[tuple[str, Mapping[Any, Any]]] = []
    if simulation_year is not None:
        year = checked_year(simulation_year)
        sources.append(("the argument simulation_year", {"simulation_year": year}))
    if dbt_vars:
        sources.append(("dbt_vars", checked_vars(dbt_vars)))
    if not sources:
        return list(words)
    given = [one for level in levels for one in level.given if one.option.name == "vars"]
    if given:  # dbt reads the last one
        sources.append(("--vars", load_mapping(given[-1].value, "--vars")))
    text = dump_vars(merge_vars(sources))
    if given:
        return [*words[: given[-1].start], "--vars", text, *words[given[-1].end :]]
    at = levels[-1].terminator  # words after ``--`` are positional
    at = len(words) if at is None else at
    return [*words[:at], "--vars", text, *words[at:]]


def _read_given(level: Level, cwd: Path, options: dict[str, Any], *, lenient: bool) -> None:
    """Read the options of the command line. One given at two levels is refused, as dbt.cli.flags.Flags does."""
    raw: dict[Option, Any] = {}
    for given in level.given:
        option = given.option
        if option.name.startswith("deprecated_"):
            raise usage_error(
                "deprecated_option", "Deprecated parameters can only be set via environment variables"
            )
        if option.name in options:
            raise usage_error(
                "option_given_twice",
                f"{option.name} was provided both before and after the subcommand, "
                "it can only be set either before or after.",
            )
        raw[option] = [*raw.get(option, ()), *given.value] if option.multi else given.value
    for option, value in raw.items():
        where = f"'{' / '.join(option.opts)}'"
        options[option.name] = _converted(option, value, where, cwd, level.command.usage(), lenient=lenient)


def _read_environment(
    level: Level,
    environ: Mapping[str, str],
    cwd: Path,
    options: dict[str, Any],
    environment: dict[str, str],
    *,
    lenient: bool,
) -> None:
    """Read environment variables of options that the command line does not have."""
    for option, variable in _variables(level.command, environ):
        if option.name in options:
            continue
        raw: Any = environ[variable].split() if option.multi else environ[variable]
        where = f"'{' / '.join(option.opts)}' (env var: {variable!r})"
        options[option.name] = _converted(option, raw, where, cwd, level.command.usage(), lenient=lenient)
        environment[option.name] = variable


def _converted(option: Option, raw: Any, where: str, cwd: Path, usage: str, *, lenient: bool) -> Any:
    """Convert a value; with `lenient`, a value that another release may accept stays text."""
    try:
        return convert(option, raw, where, cwd, usage)
    except DbtUsageError as error:
        if lenient and error.info is not None and error.info.code in OF_THE_TABLE:
            return raw
        raise


def _variables(spec: Command, environ: Mapping[str, str]) -> Iterator[tuple[Option, str]]:
    for option in spec.options:
        for variable in option.env:
            if environ.get(variable):  # for click, an empty one is unset
                yield option, variable
                break
