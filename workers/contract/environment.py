"""Selects the values of a caller's environment that a worker receives, and encodes environments.

An embedded worker receives the caller's whole environment. A remote worker receives these values, except for those on
a deny-list: names in the ``env_var`` calls of the project and the profile, dbt's own options, names that dbt writes
into its artifacts, and the time zone. Of other variables it receives the names only (`Withheld`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from workers.contract.file_cache import FileCache

# YAML doubles quotes within quotes, or escapes them
_CALL = re.compile(r"""env_var\s*\(\s*(?:var\s*=\s*)?[\\'"]+([^\\'"]+)[\\'"]""")
_SUFFIXES = frozenset({".sql", ".yml", ".yaml", ".py", ".md"})
_NEVER = ("DBT_ENV_SECRET_*", "DBT_RELAY_*", "REDIS_URL")
"""Never sent: secrets belong into the worker's own environment, and broker settings are not for projects."""

_IN_ARTIFACTS = "DBT_ENV_CUSTOM_ENV_"
"""dbt writes these into the metadata of events and artifacts (dbt_common.events.functions)."""

CALLERS = "DBT_RELAY_CALLER_"
NAMES = f"{CALLERS}NAMES"
"""The names of withheld values travel in this variable of the environment. Workers of older releases ignore it."""

MAX_FILE_BYTES = 4 * 1024 * 1024


class Withheld(msgspec.Struct, frozen=True):
    """Names of environment variables whose values the caller did not send.

    Attributes:
        names: names that do not occur in the project's text.
        denied: names on the deny-list.
    """

    names: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()


def encode_withheld(environ: Iterable[str], sent: Iterable[str], deny: str) -> str:
    """Encode the names of the values that are not sent.

    dbt-relay's own settings, which projects do not see, and names that are not UTF-8 are left out.

    Args:
        environ: names of the caller's environment.
        sent: names whose values are sent.
        deny: the deny-list (`denied`).
    """
    rest = {name for name in environ if name.isprintable() and not name.startswith("DBT_RELAY_")} - {*sent}
    refused = {name for name in rest if denied(name, deny)}
    return json.dumps([sorted(rest - refused), sorted(refused)], ensure_ascii=False, separators=(",", ":"))


def withheld_by(env: Mapping[str, str], left_out: Iterable[str]) -> Withheld:
    """Return the names of the caller's environment whose values the worker did not receive or does not use.

    Args:
        env: the received values. One of them is `encode_withheld`'s, except from callers of earlier releases.
        left_out: names of received values that the worker's own deny-list covers.
    """
    try:
        unsent, refused = msgspec.json.decode(env.get(NAMES, ""), type=tuple[frozenset[str], frozenset[str]])
    except msgspec.DecodeError:
        unsent, refused = frozenset(), frozenset()
    return Withheld(unsent, refused.union(left_out))


def names_used(places: Iterable[Path]) -> set[str]:
    """Return the names in the ``env_var`` calls of every project file.

    Args:
        places: files, or folders to search. Unchanged files are not read again (`FileCache`).
    """
    names: set[str] = set()
    for place in places:
        for path in (str(place),) if place.is_file() else _files(str(place)):
            try:
                names.update(_names.value(path))
            except OSError:  # noqa: PERF203 - each file for itself
                continue  # dbt reports a file that cannot be read
    return names


def _files(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the project files below a folder. Symlinks are followed, as `dbt deps` creates them for local packages,
    except to a folder above."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.name != "target" and real not in above and not folder.startswith(real + os.sep):
                yield from _files(entry.path, (*above, real))
        elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
            yield entry.path


def _read(path: str) -> frozenset[str]:
    if os.path.getsize(path) > MAX_FILE_BYTES:
        return frozenset()
    raw = Path(path).read_bytes()
    return frozenset(_CALL.findall(raw.decode(errors="replace")) if b"env_var" in raw else ())


_names = FileCache(_read)


def names_noted(environ: Iterable[str]) -> set[str]:
    """Return the names that dbt writes into its artifacts, whether the project reads them or not."""
    return {name for name in environ if name.startswith(_IN_ARTIFACTS)}


def matching(environ: Iterable[str], patterns: str) -> set[str]:
    """Return the names that match a comma-separated list of names, in which ``*`` is a wildcard."""
    asked = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return {name for name in environ if any(fnmatchcase(name, pattern) for pattern in asked)}


def denied(name: str, deny: str) -> bool:
    """Whether `name` is on a deny-list: comma-separated names, in which ``*`` is a wildcard. Case is ignored."""
    patterns = [pattern.strip() for pattern in deny.split(",") if pattern.strip()]
    return any(fnmatchcase(name.upper(), pattern.upper()) for pattern in (*_NEVER, *patterns))


def allowed(env: Mapping[str, str], deny: str) -> dict[str, str]:
    """Return `env` without the names on the deny-list."""
    return {name: value for name, value in env.items() if not denied(name, deny)}


def zone_name(env: Mapping[str, str]) -> str | None:
    """Return the time zone of a process with this environment, as a value of ``TZ``; None if unknown."""
    if "TZ" in env:
        return env["TZ"]
    with contextlib.suppress(OSError):
        _, found, name = os.readlink("/etc/localtime").partition("zoneinfo/")
        if found:
            return name
    return None


def encode_environment(env: Mapping[str, str]) -> bytes:
    """Encode an environment as JSON. Keeps bytes that are not UTF-8 (lone surrogates in Python)."""
    return json.dumps(dict(env)).encode()


def decode_environment(raw: bytes) -> dict[str, str]:
    """Decode an environment from JSON.

    Raises:
        ValueError: `raw` is not the JSON of an environment.
    """
    env = json.loads(raw)
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ValueError("not a mapping of names to texts")
    return env
