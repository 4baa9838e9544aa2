"""dbt's command line without dbt: what a list of arguments means, or why dbt would refuse it.

Judged by a table of dbt's options (`producer.dbt_cli.options`). Nothing here runs anything. Rules that
need the whole flag set or the project, such as ``--select`` together with ``--inline``, stay with
dbt on the worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producer.dbt_cli.options import HELP, VERSION, Command, Option, Table, packaged
from producer.dbt_cli.project import Project, check_project, profiles_dir, project_dir, target_path
from producer.dbt_cli.tables import OF_THE_TABLE
from producer.dbt_cli.values import convert
from producer.dbt_cli.vars import checked_vars, checked_year, dump_vars, load_mapping, merge_vars
from producer.dbt_cli.words import Level, check_arguments, checked_words, read_words
from producer.usage_errors import usage_error
from workers.contract.errors import DbtUsageError

__all__ = [
    "Invocation",
    "Project",
    "check_project",
    "parse_invocation",
    "profiles_dir",
    "project_dir",
    "target_path",
    "with_vars",
]


@dataclass(frozen=True)
class Invocation:
    """A dbt command line, understood.

    Attributes:
        args: dbt's arguments as given, without the word ``dbt``.
        command: ``build``, ``docs generate``, …, aliases resolved (``ls`` is ``list``); empty for
            ``--help`` and ``--version`` alone.
        options: values by dbt's parameter name, for what was given on the command line or by an
            environment variable that dbt reads; arguments (``macro``) too. ``help`` or ``version`` is
            True, and nothing else was looked at, when one of them was asked for.
        environment: which environment variable gave an option its value.
        table: by which it was understood.
    """

    args: tuple[str, ...]
    command: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    table: Table = field(default_factory=packaged, compare=False, repr=False)

    @property
    def wants_help(self) -> bool:
        """Whether ``--help`` was among the arguments."""
        return bool(self.options.get(HELP))

    @property
    def wants_version(self) -> bool:
        """Whether ``--version`` was among the arguments."""
        return bool(self.options.get(VERSION))


def parse_invocation(
    args: Sequence[str], *, environ: Mapping[str, str], cwd: Path, table: Table | None = None
) -> Invocation:
    """What dbt would make of `args` in the directory `cwd` with the environment `environ`.

    Args:
        table: dbt's commands and options; the packaged ones where none is given.

    Raises:
        DbtUsageError: dbt would refuse them; the text says why, with the nearest names.
    """
    words, table = checked_words(args), table or packaged()
    levels = read_words(words, table)
    name = levels[-1].command.words
    for level in levels:
        for eager in (HELP, VERSION):
            if level.asked_for(eager):
                return Invocation(words, level.command.words, {eager: True}, table=table)
    if not table.lenient:
        check_arguments(levels[-1])
    options: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for level in levels:
        _take_given(level, cwd, options, lenient=table.lenient)
    for level in levels:
        _take_environment(level, environ, cwd, options, environment, lenient=table.lenient)
    last = levels[-1]
    options.update(zip((argument for argument, _ in last.command.arguments), last.positional, strict=False))
    return Invocation(words, name, options, environment, table)


def with_vars(
    args: Sequence[str],
    simulation_year: int | None = None,
    dbt_vars: Mapping[str, Any] | None = None,
    *,
    table: Table | None = None,
) -> list[str]:
    """`args` with `simulation_year` and `dbt_vars` put into their ``--vars``; the rest stays as it is.

    Args:
        table: as of `parse_invocation`.

    Raises:
        DbtUsageError: two of the three places give different values for a var, or one is malformed.
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
    if given:  # the last one counts, as in dbt
        sources.append(("--vars", load_mapping(given[-1].value, "--vars")))
    text = dump_vars(merge_vars(sources))
    if given:
        return [*words[: given[-1].start], "--vars", text, *words[given[-1].end :]]
    at = levels[-1].terminator  # what follows it is positional
    at = len(words) if at is None else at
    return [*words[:at], "--vars", text, *words[at:]]


def _take_given(level: Level, cwd: Path, options: dict[str, Any], *, lenient: bool) -> None:
    """Values of the command line; an option given at two levels is refused, as dbt.cli.flags.Flags does."""
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


def _take_environment(
    level: Level,
    environ: Mapping[str, str],
    cwd: Path,
    options: dict[str, Any],
    environment: dict[str, str],
    *,
    lenient: bool,
) -> None:
    """Values of environment variables that dbt reads, for options that the command line leaves open."""
    for option, variable in _variables(level.command, environ):
        if option.name in options:
            continue
        raw: Any = environ[variable].split() if option.multi else environ[variable]
        where = f"'{' / '.join(option.opts)}' (env var: {variable!r})"
        options[option.name] = _converted(option, raw, where, cwd, level.command.usage(), lenient=lenient)
        environment[option.name] = variable


def _converted(option: Option, raw: Any, where: str, cwd: Path, usage: str, *, lenient: bool) -> Any:
    """`option_values.convert`; with `lenient`, a value that another dbt may take stays as it is."""
    try:
        return convert(option, raw, where, cwd, usage)
    except DbtUsageError as error:
        if lenient and error.info is not None and error.info.code in OF_THE_TABLE:
            return raw
        raise


def _variables(spec: Command, environ: Mapping[str, str]) -> Iterator[tuple[Option, str]]:
    for option in spec.options:
        for variable in option.env:
            if environ.get(variable):  # click takes an empty one as unset
                yield option, variable
                break
