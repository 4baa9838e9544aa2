"""Describes the command line of the installed dbt, from its own click commands (`contract.command_line`)."""

from __future__ import annotations

from typing import Any

import click
from dbt.cli.main import cli

from workers.engine.dbt_release import release

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
    """Describe one option as JSON-compatible data. Empty keys are left out."""
    spec: dict[str, Any] = {"opts": list(option.opts)}
    if option.secondary_opts:
        spec["off"] = list(option.secondary_opts)
    kind = "flag" if option.is_flag else "text"
    if not option.is_flag:
        multi = type(option).__name__ == "MultiOption"
        name = option.type.name
        if multi:
            spec["multi"] = True
        if not (multi and name not in KIND_OF_TYPE):  # `type=tuple` accepts any words
            kind = KIND_OF_TYPE.get(name, "text")  # a type of a later release: dbt checks the value
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
    """Describe one command or group as JSON-compatible data."""
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
    """Describe all commands of the installed dbt-core.

    Returns:
        ``commands`` by their words (the root under an empty string), each with its options, and their ``aliases``.
    """
    commands: dict[str, Any] = {"": describe_command(cli)}
    aliases: dict[str, str] = {}

    def walk(group: click.Group, words: str) -> None:
        own = {id(command.callback): name for name, command in group.commands.items() if not command.hidden}
        for name, command in group.commands.items():
            path = f"{words} {name}".strip()
            if command.hidden:  # dbt hides only aliases
                aliases[path] = f"{words} {own[id(command.callback)]}".strip()
                continue
            commands[path] = describe_command(command)
            if isinstance(command, click.Group):
                walk(command, path)

    walk(cli, "")
    return {"dbt_versions": [release()], "aliases": aliases, "commands": commands}


def pack(described: dict[str, Any]) -> dict[str, Any]:
    """Convert to the form of the file: each option once; commands list the ids of options (name, or ``name~2``)."""
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
