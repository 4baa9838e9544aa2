"""Writes ``producer/dbt_cli/options.json``: every command and option of dbt, from dbt's own click commands.

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
from pathlib import Path
from typing import Any

from workers.engine.command_line import describe_dbt, pack

OUTPUT = Path(__file__).resolve().parent.parent / "producer" / "dbt_cli" / "options.json"


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


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `pack`: the options of each command beside it."""
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
