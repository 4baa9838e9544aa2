"""The description of dbt's command line that workers publish and clients check against.

There is one description for each dbt release: names and types of commands, options and arguments, without help texts.
`engine.command_line` creates it. The file ``producer/dbt_cli/options.json`` has the same format.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Any, Literal

import msgspec

MAX_PACKED_BYTES = 256 * 1024
MAX_BYTES = 2 * 1024 * 1024
"""The description of dbt-core 1.12 has 35 KB, or 5 KB packed."""

EXPIRY_SECONDS = 3600
"""Time to live of a description. Workers renew it (`supervision.worker_registry`) as long as they run."""

Name = Annotated[str, msgspec.Meta(max_length=200)]
Spelling = Annotated[str, msgspec.Meta(pattern=r"^--?[^\s=]{1,200}\Z")]


class PathSpec(msgspec.Struct, frozen=True):
    """Which paths a path option accepts (click.Path)."""

    exists: bool
    file: bool
    dir: bool


class OptionSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One option; see `producer.dbt_cli.options.Option`."""

    opts: Annotated[tuple[Spelling, ...], msgspec.Meta(min_length=1)]
    kind: Literal["flag", "bool", "text", "int", "choice", "datetime", "path", "yaml"]
    off: tuple[Spelling, ...] = ()
    multi: bool = False
    choices: tuple[Name, ...] = ()
    case_sensitive: bool = False
    path: PathSpec | None = None
    env: tuple[Name, ...] = ()
    hidden: bool = False


class ArgumentSpec(msgspec.Struct, frozen=True):
    """One positional argument."""

    name: Name
    required: bool


class CommandSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command or group of commands. `options`: keys of `CommandLine.options`."""

    options: tuple[Name, ...]
    arguments: tuple[ArgumentSpec, ...]
    group: bool = False


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of one dbt release.

    Attributes:
        dbt_versions: the release, or several releases whose descriptions were merged.
        aliases: alias of a command → the command.
        commands: by name, ``docs generate``; the root command's name is empty.
        options: each option once, by its name; ``name~2`` where commands differ in it.
    """

    version: Literal[1] = 1
    dbt_versions: tuple[Name, ...]
    aliases: dict[Name, Name]
    commands: dict[Name, CommandSpec]
    options: dict[Name, OptionSpec]

    def __post_init__(self) -> None:
        if "" not in self.commands or not self.commands[""].group:
            raise ValueError("the root command is missing")
        unknown = {meant for meant in self.aliases.values() if meant not in self.commands}
        unknown |= {
            key for entry in self.commands.values() for key in entry.options if key not in self.options
        }
        if unknown:
            raise ValueError(f"not described: {', '.join(sorted(unknown)[:5])}")


def pack(plain: dict[str, Any]) -> bytes:
    """Encode a description for Redis.

    Raises:
        msgspec.ValidationError: `plain` is not a description.
    """
    return zlib.compress(msgspec.json.encode(msgspec.convert(plain, CommandLine)))


def unpack(packed: bytes) -> dict[str, Any] | None:
    """Decode a description from Redis. Returns None for anything else."""
    if len(packed) > MAX_PACKED_BYTES:
        return None
    try:
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(packed, MAX_BYTES)
        if unpacking.unconsumed_tail:
            return None
        described: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(raw, type=CommandLine))
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return described
