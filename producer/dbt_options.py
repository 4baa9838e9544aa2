"""What dbt's command line knows: commands, options, arguments.

Read from ``dbt_options.json``, which ``scripts/generate_dbt_options.py`` writes from dbt's own click
commands, so the producer needs no dbt to judge a command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
        off: spellings that switch a flag off, ``--no-defer``.
        kind: flag, bool, text, int, choice, datetime, path or yaml.
        multi: whether it takes all words up to the next option (dbt.cli.options.MultiOption).
        choices: what a choice may be.
        case_sensitive: whether a choice must be spelled as in `choices`.
        must_exist, file_ok, dir_ok: of a path (click.Path).
        env: environment variables that give its value, first one first.
        hidden: whether dbt's help leaves it out.
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
        """Whether a value must follow it."""
        return self.kind != "flag"


@dataclass(frozen=True)
class Command:
    """One dbt command.

    Attributes:
        words: ``build``, ``docs generate``; empty for dbt itself.
        options: its options, ``--help`` included.
        arguments: positional ones: name and whether dbt insists on it.
        group: whether a sub-command must follow.
    """

    words: str
    options: tuple[Option, ...]
    arguments: tuple[tuple[str, bool], ...]
    group: bool

    def usage(self) -> str:
        """The two lines that dbt prints above a usage error."""
        name = f"dbt-relay {self.words}".strip()
        if self.group:
            tail = "COMMAND [ARGS]..."
        else:
            tail = " ".join(arg.upper() if needed else f"[{arg.upper()}]" for arg, needed in self.arguments)
        return f"Usage: {name} [OPTIONS] {tail}".rstrip() + f"\nTry '{name} --help' for help."


_HELP_OPTION = Option(HELP, ("--help", "-h"), kind="flag")


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    with Path(__file__).with_name("dbt_options.json").open("rb") as file:
        data: dict[str, Any] = json.load(file)
    return data


def dbt_versions() -> tuple[str, ...]:
    """The releases of dbt-core whose options are known, oldest first."""
    return tuple(_data()["dbt_versions"])


def command_names() -> tuple[str, ...]:
    """Every command that can be run, without aliases: ``build``, ``docs generate``, …"""
    return tuple(name for name, entry in _data()["commands"].items() if not entry.get("group"))


def variables() -> frozenset[str]:
    """Environment variables that dbt takes options from."""
    return frozenset(name for option in _data()["options"].values() for name in option.get("env", ()))


def subcommands(group: str) -> Mapping[str, str]:
    """The words that may follow `group` (empty for dbt itself), aliases included, and the command each means."""
    known = {name: name for name in _data()["commands"] if name} | _data()["aliases"]
    prefix = f"{group} " if group else ""
    found = {name[len(prefix) :]: meant for name, meant in known.items() if name.startswith(prefix)}
    return {word: meant for word, meant in found.items() if " " not in word}


@lru_cache(maxsize=32)
def command(words: str) -> Command:
    """The command of that name (no alias). Raises KeyError for one that dbt does not have."""
    data = _data()
    entry = data["commands"][words]
    options = [_option(key.partition("~")[0], data["options"][key]) for key in entry["options"]]
    arguments = tuple((argument["name"], argument["required"]) for argument in entry["arguments"])
    return Command(words, (*options, _HELP_OPTION), arguments, entry.get("group", False))


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
