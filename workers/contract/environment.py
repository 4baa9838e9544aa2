"""Which of a remote caller's environment values may reach a worker.

An embedded worker sees all of its caller's environment. A remote one gets the values of the names that the
project's and the profile's ``env_var`` calls use, dbt's own options, what dbt notes in its artifacts and the time zone,
minus a deny-list. Of the other names it gets no value, but it knows that the caller has one (`Withheld`).
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
"""Secrets belong to the worker's own environment; broker settings to nobody's project."""

_NOTED = "DBT_ENV_CUSTOM_ENV_"
"""dbt notes these in the metadata of events and artifacts (dbt_common.events.functions)."""

CALLERS = "DBT_RELAY_CALLER_"
NAMES = f"{CALLERS}NAMES"
"""Travels as a value of the environment, as `surroundings` do: a worker of an older release ignores it."""

MAX_FILE_BYTES = 4 * 1024 * 1024


class Withheld(msgspec.Struct, frozen=True):
    """Names of the caller's environment whose values it did not send.

    Attributes:
        names: of values that nothing in the project's text asked for.
        denied: of values that the deny-list covers.
    """

    names: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()


def encode_withheld(environ: Iterable[str], sent: Iterable[str], deny: str) -> str:
    """The names of an environment that are not `sent`, as a text. Those of dbt-relay's own settings, which no
    project sees, and those that are not UTF-8 are left out."""
    rest = {name for name in environ if name.isprintable() and not name.startswith("DBT_RELAY_")} - {*sent}
    refused = {name for name in rest if denied(name, deny)}
    return json.dumps([sorted(rest - refused), sorted(refused)], ensure_ascii=False, separators=(",", ":"))


def withheld_by(env: Mapping[str, str], left_out: Iterable[str]) -> Withheld:
    """What did not reach a worker of its caller's environment.

    Args:
        env: the values that came. What `encode_withheld` made is one; a caller of an earlier release sends none.
        left_out: of these, the names that the worker's own deny-list covers.
    """
    try:
        unsent, refused = msgspec.json.decode(env.get(NAMES, ""), type=tuple[frozenset[str], frozenset[str]])
    except msgspec.DecodeError:
        unsent, refused = frozenset(), frozenset()
    return Withheld(unsent, refused.union(left_out))


def names_used(places: Iterable[Path]) -> set[str]:
    """Names in the ``env_var`` calls of every project file below `places`, which are folders or files. A file that
    looks untouched since this process last read it is not read again."""
    names: set[str] = set()
    for place in places:
        for path in (str(place),) if place.is_file() else _files(str(place)):
            try:
                names.update(_names.value(path))
            except OSError:  # noqa: PERF203 - each file for itself
                continue  # a file that cannot be read here is dbt's to complain about
    return names


def _files(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Project files below a folder. Links are followed, as `dbt deps` makes them for local packages, but not upwards."""
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
    """Those names of `environ` that dbt notes in its artifacts, whatever the project reads."""
    return {name for name in environ if name.startswith(_NOTED)}


def matching(environ: Iterable[str], patterns: str) -> set[str]:
    """Those names of an environment that a list (names with ``*``, comma between) covers."""
    asked = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return {name for name in environ if any(fnmatchcase(name, pattern) for pattern in asked)}


def denied(name: str, deny: str) -> bool:
    """Whether a deny-list (names with ``*``, comma between) covers `name`."""
    patterns = [pattern.strip() for pattern in deny.split(",") if pattern.strip()]
    return any(fnmatchcase(name.upper(), pattern.upper()) for pattern in (*_NEVER, *patterns))


def allowed(env: Mapping[str, str], deny: str) -> dict[str, str]:
    """`env` without what the deny-list covers."""
    return {name: value for name, value in env.items() if not denied(name, deny)}


def zone_name(env: Mapping[str, str]) -> str | None:
    """The time zone of this machine for a process with that environment, as a value of ``TZ``; None if unknown."""
    if "TZ" in env:
        return env["TZ"]
    with contextlib.suppress(OSError):
        _, found, name = os.readlink("/etc/localtime").partition("zoneinfo/")
        if found:
            return name
    return None


def encode_environment(env: Mapping[str, str]) -> bytes:
    """JSON of an environment. Bytes that are not UTF-8 (lone surrogates in Python) stay what they are."""
    return json.dumps(dict(env)).encode()


def decode_environment(raw: bytes) -> dict[str, str]:
    """An environment from its JSON.

    Raises:
        ValueError: it is not the JSON of an environment.
    """
    env = json.loads(raw)
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ValueError("not a mapping of names to texts")
    return env
