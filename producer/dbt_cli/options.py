"""Tables of dbt's commands, options and arguments.

The packaged table is ``options.json``. ``scripts/generate_dbt_options.py`` generates it from dbt's click commands, so
the producer needs no dbt. Workers publish the table of their own dbt (`producer.worker_tables`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

HELP = "help"
VERSION = "version"


@dataclass(frozen=True)
class Option:
    """One option of a dbt command.

    Attributes:
        name: dbt's parameter name, ``full_refresh``.
        opts: spellings, ``--full-refresh`` and ``-f``.
        off: spellings that turn a flag off, ``--no-defer``.
        kind: flag, bool, text, int, choice, datetime, path or yaml.
        multi: whether its values are all words up to the next option (dbt.cli.options.MultiOption).
        choices: the values of a choice.
        case_sensitive: whether the case of a choice matters.
        must_exist, file_ok, dir_ok: of a path (click.Path).
        env: environment variables that set it, in dbt's order.
        hidden: whether dbt's help omits it.
    """

    name: str
    opts: tuple[str, ...]
    off: tuple[str, ...] = ()
    kind: str = "text"
    multi: bool = False
    choices: tuple[str, ...] = ()
    case_sensitive: bool = False
    must_exist: bool = False
    file_ok: bool = True
    dir_ok: bool = True
    env: tuple[str, ...] = ()
    hidden: bool = False

    @property
    def takes_value(self) -> bool:
        """Whether it needs a value."""
        return self.kind != "flag"


@dataclass(frozen=True)
class Command:
    """One dbt command.

    Attributes:
        words: ``build``, ``docs generate``; empty for dbt itself.
        options: its options, ``--help`` included.
        arguments: positional arguments: name, and whether it is required.
        group: whether a sub-command must follow.
    """

    words: str
    options: tuple[Option, ...]
    arguments: tuple[tuple[str, bool], ...]
    group: bool

    def usage(self) -> str:
        """Format the two lines that dbt prints above a usage error."""
        name = f"dbt-relay {self.words}".strip()
        if self.group:
            tail = "COMMAND [ARGS]..."
        else:
            tail = " ".join(arg.upper() if needed else f"[{arg.upper()}]" for arg, needed in self.arguments)
        return f"Usage: {name} [OPTIONS] {tail}".rstrip() + f"\nTry '{name} --help' for help."


_HELP_OPTION = Option(HELP, ("--help", "-h"), kind="flag")
_LIKE_ANY = "compile"
"""A command that a lenient table lacks is read with this command's options, which most commands share."""


class Table:
    """The command line of one dbt release, or of several that were merged.

    Attributes:
        lenient: whether unknown commands and options are passed on to the worker's dbt instead of refused.
    """

    def __init__(self, data: Mapping[str, Any], *, lenient: bool = False) -> None:
        self._data, self.lenient = data, lenient
        self._commands: dict[str, Command] = {}

    def as_lenient(self) -> Table:
        """Return a copy that passes on unknown commands and options."""
        return Table(self._data, lenient=True)

    def dbt_versions(self) -> tuple[str, ...]:
        """List the releases of dbt-core whose options the table has, oldest first."""
        return tuple(self._data["dbt_versions"])

    def covers(self, release: str) -> bool:
        """Whether the table has every option of a release of dbt-core: one of its releases, or an earlier patch of
        one. A patch release may add options, and removes none."""
        series, patch = _series_and_patch(release)
        known = [_series_and_patch(each) for each in self.dbt_versions()]
        return release in self.dbt_versions() or any(
            series == known_series and patch is not None and known_patch is not None and patch <= known_patch
            for known_series, known_patch in known
        )

    def command_names(self) -> tuple[str, ...]:
        """List the commands that can be run, without aliases: ``build``, ``docs generate``, …"""
        return tuple(name for name, entry in self._data["commands"].items() if not entry.get("group"))

    def variables(self) -> frozenset[str]:
        """List the environment variables that set options."""
        return frozenset(name for option in self._data["options"].values() for name in option.get("env", ()))

    def subcommands(self, group: str) -> Mapping[str, str]:
        """Map each word that may follow `group` (empty for dbt itself), aliases included, to its command."""
        known = {name: name for name in self._data["commands"] if name} | dict(self._data["aliases"])
        prefix = f"{group} " if group else ""
        found = {name[len(prefix) :]: meant for name, meant in known.items() if name.startswith(prefix)}
        return {word: meant for word, meant in found.items() if " " not in word}

    def command(self, words: str) -> Command:
        """Return the command of this name, which is not an alias. Raises KeyError where the table lacks it."""
        found = self._commands.get(words)
        if found is None:
            entry = self._data["commands"][words]
            options = [_option(key.partition("~")[0], self._data["options"][key]) for key in entry["options"]]
            arguments = tuple((argument["name"], argument["required"]) for argument in entry["arguments"])
            found = Command(words, (*options, _HELP_OPTION), arguments, entry.get("group", False))
            self._commands[words] = found
        return found

    def unknown_command(self, words: str) -> Command:
        """Return a command for a name that the table lacks, with the most common options."""
        like = self.command(_LIKE_ANY) if _LIKE_ANY in self._data["commands"] else self.command("")
        return replace(like, words=words, arguments=(), group=False)

    def spelled(self, spelling: str) -> Option | None:
        """Return an option with this spelling, of any command; None where there is none."""
        for key, spec in self._data["options"].items():
            if spelling in spec["opts"] or spelling in spec.get("off", ()):
                return _option(key.partition("~")[0], spec)
        return None


def _series_and_patch(release: str) -> tuple[str, int | None]:
    series, _, patch = release.rpartition(".")
    return series, int(patch) if patch.isascii() and patch.isdigit() else None


@lru_cache(maxsize=1)
def packaged() -> Table:
    """Return the table of this release of dbt-relay."""
    with Path(__file__).with_name("options.json").open("rb") as file:
        return Table(json.load(file))


def dbt_versions() -> tuple[str, ...]:
    """See `Table.dbt_versions`; of the packaged table."""
    return packaged().dbt_versions()


def command_names() -> tuple[str, ...]:
    """See `Table.command_names`; of the packaged table."""
    return packaged().command_names()


def variables() -> frozenset[str]:
    """See `Table.variables`; of the packaged table."""
    return packaged().variables()


def subcommands(group: str) -> Mapping[str, str]:
    """See `Table.subcommands`; of the packaged table."""
    return packaged().subcommands(group)


def command(words: str) -> Command:
    """See `Table.command`; of the packaged table."""
    return packaged().command(words)


def _option(name: str, spec: Mapping[str, Any]) -> Option:
    path = spec.get("path", {})
    return Option(
        name=name,
        opts=tuple(spec["opts"]),
        off=tuple(spec.get("off", ())),
        kind=spec["kind"],
        multi=spec.get("multi", False),
        choices=tuple(spec.get("choices", ())),
        case_sensitive=spec.get("case_sensitive", False),
        must_exist=path.get("exists", False),
        file_ok=path.get("file", True),
        dir_ok=path.get("dir", True),
        env=tuple(spec.get("env", ())),
        hidden=spec.get("hidden", False),
    )
