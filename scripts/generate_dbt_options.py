"""Writes ``producer/dbt_cli/options.json``: all commands and options of dbt, read from its click commands.

The producer checks command lines without dbt, so this file describes the commands of all supported releases::

    python scripts/generate_dbt_options.py           # from the installed dbt-core only
    python scripts/generate_dbt_options.py --merge   # add the installed dbt-core to the file

Run it with the newest release first, then with ``--merge`` for each older one. A test fails if the
installed dbt-core has an option that the file lacks. The file has names and types, not dbt's help texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from workers.engine.command_line import describe_dbt, pack

OUTPUT = Path(__file__).resolve().parent.parent / "producer" / "dbt_cli" / "options.json"


def release(text: str) -> tuple[int, ...]:
    """Parse a version to a sort key."""
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def union(first: list[Any], second: list[Any]) -> list[Any]:
    """Union of two lists, in the order of `first`, then `second`."""
    return first + [item for item in second if item not in first]


def merge_option(newer: dict[str, Any], older: dict[str, Any]) -> dict[str, Any]:
    """Merge an option of two releases: accept the values of both, and otherwise prefer the newer."""
    merged = {**newer, **{key: value for key, value in older.items() if key not in {**newer, "hidden": True}}}
    for key in ("opts", "off", "choices", "env"):
        if key in merged:
            merged[key] = union(newer.get(key, []), older.get(key, []))
    return merged


def merge(newer: dict[str, Any], older: dict[str, Any]) -> dict[str, Any]:
    """Merge the commands, options and choices of two releases."""
    commands = dict(newer["commands"])
    for path, older_command in older["commands"].items():
        newer_command = commands.setdefault(path, older_command)
        options = dict(newer_command["options"])
        for name, spec in older_command["options"].items():
            options[name] = merge_option(options[name], spec) if name in options else spec
        commands[path] = {**newer_command, "options": options}
    return {
        "dbt_versions": sorted(union(newer["dbt_versions"], older["dbt_versions"]), key=release),
        "aliases": {**older["aliases"], **newer["aliases"]},
        "commands": commands,
    }


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """Reverse `pack`: put the options into each command."""
    commands = {
        path: {
            **entry,
            "options": {key.partition("~")[0]: packed["options"][key] for key in entry["options"]},
        }
        for path, entry in packed["commands"].items()
    }
    return {"dbt_versions": packed["dbt_versions"], "aliases": packed["aliases"], "commands": commands}


def dump(packed: dict[str, Any]) -> str:
    """Format as JSON with one option or command a line, for readable diffs."""
    parts = []
    for key, value in packed.items():
        if key in ("commands", "options"):
            rows = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()]
            parts.append(f' "{key}": {{\n' + ",\n".join(rows) + "\n }")
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Write the file. Returns the exit code."""
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
