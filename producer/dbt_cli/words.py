"""Splits the words of a dbt command line into commands, options with their values, and positional arguments.

Mirrors click's parser and dbt's MultiOption (click.parser, dbt.cli.options). The values of ``--select a b`` are all
words up to the next option. The value of ``--select --vars`` is ``--vars``. Options of dbt itself may precede the
command.

A lenient table passes unknown options on. Their value is guessed: the text after ``=``, else all words up to the next
option. Before the command, it is one word that is not a command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from producer.dbt_cli.options import HELP, VERSION, Command, Option, Table, packaged
from producer.usage_errors import did_you_mean, nearest, usage_error
from workers.contract.errors import DbtUsageError

MAX_WORDS = 4096
MAX_WORD_LENGTH = 1024 * 1024
"""Limits of a run request (workers.contract.messages)."""


@dataclass(frozen=True)
class Given:
    """An option on the command line, with the words ``args[start:end]``."""

    option: Option
    value: Any
    start: int
    end: int


@dataclass
class Level:
    """One command of the line (dbt, ``docs``, ``generate``) with its options and positional arguments."""

    command: Command
    given: list[Given] = field(default_factory=list)
    positional: list[str] = field(default_factory=list)
    terminator: int | None = None  # position of the ``--`` that ends its options

    def has(self, name: str) -> bool:
        return any(given.option.name == name for given in self.given)


def checked_words(args: Sequence[str]) -> tuple[str, ...]:
    """Convert `args` to a tuple of texts. Raises DbtUsageError where they are not a list of words."""
    if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
        raise usage_error(
            "arguments_not_a_list",
            f"dbt's arguments must be a list of words, not a {type(args).__name__}: {args!r}.",
            'Write ["run", "--select", "my_model"].',
        )
    words = tuple(os.fspath(word) if isinstance(word, os.PathLike) else word for word in args)
    for word in words:
        if not isinstance(word, str):
            raise usage_error(
                "argument_not_text", f"dbt's arguments must be text: {word!r} is a {type(word).__name__}."
            )
        if "\0" in word:
            raise usage_error("argument_with_nul", f"An argument holds a NUL character: {word[:80]!r}.")
        if len(word) > MAX_WORD_LENGTH:
            raise usage_error(
                "argument_too_long",
                f"An argument is {len(word)} characters long ({word[:40]!r}…): at most {MAX_WORD_LENGTH} are accepted.",
            )
    if len(words) > MAX_WORDS:
        raise usage_error("too_many_arguments", f"{len(words)} arguments: at most {MAX_WORDS} are accepted.")
    return words


def read_words(words: tuple[str, ...], table: Table | None = None) -> list[Level]:
    """Read the levels of a command line, from dbt down to the command. Stops at ``--help`` and ``--version``.

    Args:
        table: dbt's commands and options; default the packaged ones.

    Raises:
        DbtUsageError: a command or an option is unknown, or a value is missing.
    """
    table = table or packaged()
    levels = [Level(table.command(""))]
    at = _scan(words, 0, levels[0], table)
    while True:
        level = levels[-1]
        if not level.command.group or level.has(HELP) or level.has(VERSION):
            return levels
        if at >= len(words):
            raise _missing_command(level.command, table)
        meant = table.subcommands(level.command.words).get(words[at])
        if meant is None:
            if not table.lenient or words[at] in ("dbt", "dbt-relay"):
                raise _unknown_command(level.command, words[at], table)
            name = f"{level.command.words} {words[at]}".strip()
            levels.append(Level(table.unknown_command(name)))
        else:
            levels.append(Level(table.command(meant)))
        at = _scan(words, at + 1, levels[-1], table)


def _missing_command(group: Command, table: Table) -> DbtUsageError:
    known = ", ".join(sorted(set(table.subcommands(group.words).values())))
    return usage_error("missing_command", "Missing command.", f"One of: {known}.", detail=group.usage())


def _unknown_command(group: Command, word: str, table: Table) -> DbtUsageError:
    known = table.subcommands(group.words)
    fix = ""
    if word in ("dbt", "dbt-relay"):
        fix = f"Leave the word {word} out: the arguments start with dbt's command."
    elif not nearest(word, known):
        fix = f"One of: {', '.join(name.split()[-1] for name in sorted(set(known.values())))}."
    message = f"No such command {word!r}.{did_you_mean(word, known)}"
    return usage_error("unknown_command", message, fix, detail=group.usage())


def _scan(words: tuple[str, ...], at: int, level: Level, table: Table) -> int:
    """Read the words of one command into `level`. Returns the position after them (click.parser._OptionParser)."""
    spellings = {
        spelled: option for option in level.command.options for spelled in (*option.opts, *option.off)
    }
    scanner = _Scanner(words, at, level, spellings, table)
    while scanner.at < len(words):
        word = words[scanner.at]
        if word == "--":
            level.terminator = scanner.at
            scanner.at += 1
            if not level.command.group:
                level.positional.extend(words[scanner.at :])
                scanner.at = len(words)
            break
        if word.startswith("-") and len(word) > 1:
            scanner.take_option(word)
        elif level.command.group:
            break
        else:
            level.positional.append(word)
            scanner.at += 1
    return scanner.at


@dataclass
class _Scanner:
    words: tuple[str, ...]
    at: int
    level: Level
    spellings: Mapping[str, Option]
    table: Table

    def take_option(self, word: str) -> None:
        start = self.at
        self.at += 1
        spelled, equals, attached = word.partition("=")
        option = self.spellings.get(spelled)
        if option is None and self.table.lenient and len(spelled) > 2 and spelled.startswith("--"):
            option = self.table.spelled(spelled)  # of another command
            if option is None:
                self._pass_on(alone=bool(equals))
                return
        if option is not None and len(spelled) > 2:
            if option.takes_value:
                self._take_value(option, spelled, attached if equals else None, start)
            elif equals and not self.table.lenient:
                raise self._error("option_without_value", f"Option {spelled!r} does not take a value.")
            else:
                self._add(option, spelled not in option.off, start)
        elif word.startswith("--"):
            hint = did_you_mean(spelled, (name for name in self.spellings if name.startswith("--")))
            raise self._error("unknown_option", f"No such option {spelled!r}.{hint}")
        else:
            self._take_letters(word, start)

    def _pass_on(self, *, alone: bool) -> None:
        """Skip the words of an unknown option: the worker's dbt reads them."""
        if alone or self.at >= len(self.words):
            return
        if self.level.command.group:
            known = self.table.subcommands(self.level.command.words)
            word = self.words[self.at]
            self.at += not word.startswith("-") and word not in known
            return
        while self.at < len(self.words) and not self.words[self.at].startswith("-"):
            self.at += 1

    def _take_letters(self, word: str, start: int) -> None:
        """``-xf`` is ``-x -f``, and ``-smodel`` is ``-s model``."""
        for position, letter in enumerate(word[1:], start=1):
            option = self.spellings.get(f"-{letter}")
            if option is None and self.table.lenient:
                self._pass_on(alone=position + 1 < len(word))
                return
            if option is None:
                raise self._error("unknown_option", f"No such option '-{letter}'.")
            if option.takes_value:
                self._take_value(option, f"-{letter}", word[position + 1 :] or None, start)
                return
            self._add(option, True, start)

    def _take_value(self, option: Option, spelled: str, attached: str | None, start: int) -> None:
        if attached is None:
            if self.at >= len(self.words):
                if self.table.lenient:
                    return
                raise self._error("missing_value", f"Option {spelled!r} requires an argument.")
            attached = self.words[self.at]  # even one that looks like an option, as in click
            self.at += 1
        if not option.multi:
            self._add(option, attached, start)
            return
        values = attached.split(" ")
        while self.at < len(self.words) and not self.words[self.at].startswith("-"):
            values.append(self.words[self.at])
            self.at += 1
        self._add(option, values, start)

    def _add(self, option: Option, value: Any, start: int) -> None:
        self.level.given.append(Given(option, value, start, self.at))

    def _error(self, code: str, message: str) -> DbtUsageError:
        return usage_error(code, message, detail=self.level.command.usage())


def check_arguments(level: Level) -> None:
    """Raise DbtUsageError for a missing or surplus positional argument."""
    arguments = level.command.arguments
    needed = [name for name, required in arguments if required]
    usage = level.command.usage()
    if len(level.positional) < len(needed):
        missing = needed[len(level.positional)].upper()
        raise usage_error("missing_argument", f"Missing argument {missing!r}.", detail=usage)
    extra = level.positional[len(arguments) :]
    if extra:
        plural = "s" if len(extra) > 1 else ""
        fix = ""
        if any(option.name == "select" for option in level.command.options):
            fix = f"To choose models write --select {' '.join(extra)}."
        raise usage_error(
            "extra_argument", f"Got unexpected extra argument{plural} ({' '.join(extra)})", fix, detail=usage
        )
