"""Writes ``producer/dbt_options.json``: every command and option of dbt, from dbt's own click commands.

The producer checks a command line without dbt installed, so what dbt accepts is written down here
once for each release that is supported::

    python scripts/generate_dbt_options.py           # from the installed dbt-core alone
    python scripts/generate_dbt_options.py --merge   # add the installed dbt-core to what is there

Run it with the newest release first, then with ``--merge`` under each older one. A test fails when
the installed dbt-core knows something that the file lacks. Names and types alone: dbt's help texts
stay dbt's.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

OUTPUT = Path(__file__).resolve().parent.parent / "producer" / "dbt_options.json"

KIND_OF_TYPE = {
    "YAML": "yaml",
    "WarnErrorOptionsType": "yaml",
    "SqlParseOptionsType": "yaml",
    "NewPackage": "text",
    "SAMPLE": "text",
    "text": "text",
    "integer": "int",
    "boolean": "bool",
    "datetime": "datetime",
    "choice": "choice",
    "CHOICE_TUPLE": "choice",
    "path": "path",
    "file": "path",
    "directory": "path",
}


def describe_option(option: click.Option) -> dict[str, Any]:
    """One option as plain data; keys that would be empty are left out."""
    spec: dict[str, Any] = {"opts": list(option.opts)}
    if option.secondary_opts:
        spec["off"] = list(option.secondary_opts)
    kind = "flag" if option.is_flag else "text"
    if not option.is_flag:
        multi = type(option).__name__ == "MultiOption"
        name = option.type.name
        if multi:
            spec["multi"] = True
        if not (multi and name not in KIND_OF_TYPE):  # `type=tuple`: any words
            kind = KIND_OF_TYPE[name]
    spec["kind"] = kind
    if isinstance(option.type, click.Choice):
        spec["choices"] = [str(choice) for choice in option.type.choices]
        if option.type.case_sensitive:
            spec["case_sensitive"] = True
    if isinstance(option.type, click.Path):
        wanted = {"exists": option.type.exists, "file": option.type.file_okay, "dir": option.type.dir_okay}
        spec["path"] = wanted
    envvar = option.envvar
    if envvar:
        spec["env"] = [envvar] if isinstance(envvar, str) else list(envvar)
    if option.hidden:
        spec["hidden"] = True
    return spec


def describe_command(command: click.Command) -> dict[str, Any]:
    """One command (or group of them) as plain data."""
    entry: dict[str, Any] = {"options": {}, "arguments": []}
    if isinstance(command, click.Group):
        entry["group"] = True
    for param in command.params:
        if isinstance(param, click.Option):
            entry["options"][param.name] = describe_option(param)
        else:
            entry["arguments"].append({"name": param.name, "required": param.required})
    return entry


def describe_dbt() -> dict[str, Any]:
    """Every command of the installed dbt-core by its words (the root under an empty string), and aliases."""
    from dbt.cli.main import cli

    commands: dict[str, Any] = {"": describe_command(cli)}
    aliases: dict[str, str] = {}

    def walk(group: click.Group, words: str) -> None:
        own = {id(command.callback): name for name, command in group.commands.items() if not command.hidden}
        for name, command in group.commands.items():
            path = f"{words} {name}".strip()
            if command.hidden:  # dbt hides its aliases and nothing else
                aliases[path] = f"{words} {own[id(command.callback)]}".strip()
                continue
            commands[path] = describe_command(command)
            if isinstance(command, click.Group):
                walk(command, path)

    walk(cli, "")
    return {"dbt_versions": [version("dbt-core")], "aliases": aliases, "commands": commands}


def release(text: str) -> tuple[int, ...]:
    """A version to sort by."""
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def union(first: list[Any], second: list[Any]) -> list[Any]:
    """Both lists without repetition, `first` leading."""
    return first + [item for item in second if item not in first]


def merge_option(newer: dict[str, Any], older: dict[str, Any]) -> dict[str, Any]:
    """What either release accepts; the rest as the newer one says it."""
    merged = {**newer, **{key: value for key, value in older.items() if key not in {**newer, "hidden": True}}}
    for key in ("opts", "off", "choices", "env"):
        if key in merged:
            merged[key] = union(newer.get(key, []), older.get(key, []))
    return merged


def merge(newer: dict[str, Any], older: dict[str, Any]) -> dict[str, Any]:
    """What either release accepts: commands, options and choices of both."""
    commands = dict(newer["commands"])
    for path, theirs in older["commands"].items():
        ours = commands.setdefault(path, theirs)
        options = dict(ours["options"])
        for name, spec in theirs["options"].items():
            options[name] = merge_option(options[name], spec) if name in options else spec
        commands[path] = {**ours, "options": options}
    return {
        "dbt_versions": sorted(union(newer["dbt_versions"], older["dbt_versions"]), key=release),
        "aliases": {**older["aliases"], **newer["aliases"]},
        "commands": commands,
    }


def pack(described: dict[str, Any]) -> dict[str, Any]:
    """The form of the file: each option once, commands name them by id (its name, or ``name~2``)."""
    table: dict[str, dict[str, Any]] = {}
    packed: dict[str, Any] = {}
    for path, entry in described["commands"].items():
        ids = []
        for name, spec in entry["options"].items():
            number, key = 1, name
            while table.setdefault(key, spec) != spec:
                number += 1
                key = f"{name}~{number}"
            ids.append(key)
        packed[path] = {**entry, "options": ids}
    return {**described, "commands": packed, "options": table}


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `pack`."""
    commands = {
        path: {
            **entry,
            "options": {key.partition("~")[0]: packed["options"][key] for key in entry["options"]},
        }
        for path, entry in packed["commands"].items()
    }
    return {"dbt_versions": packed["dbt_versions"], "aliases": packed["aliases"], "commands": commands}


def dump(packed: dict[str, Any]) -> str:
    """JSON with one option or command a line, so that a change is one line of a diff."""
    parts = []
    for key, value in packed.items():
        if key in ("commands", "options"):
            rows = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()]
            parts.append(f' "{key}": {{\n' + ",\n".join(rows) + "\n }")
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Write the file."""
    described = describe_dbt()
    if "--merge" in sys.argv[1:]:
        known = unpack(json.loads(OUTPUT.read_text("utf-8")))
        newer, older = sorted(
            (described, known), key=lambda one: max(map(release, one["dbt_versions"])), reverse=True
        )
        described = merge(newer, older)
    OUTPUT.write_text(dump(pack(described)), "utf-8")
    sys.stdout.write(f"{OUTPUT.name}: dbt-core {', '.join(described['dbt_versions'])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
