"""Which of a remote caller's environment values may reach a worker.

An embedded worker sees all of its caller's environment. A remote one gets the names that the
project's ``env_var`` calls use, dbt's own options, what dbt notes in its artifacts and the time zone, minus a
deny-list that both sides apply.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from workers.contract.unchanged import OfFiles

# YAML doubles quotes within quotes, or escapes them
_CALL = re.compile(r"""env_var\s*\(\s*[\\'"]+([^\\'"]+)[\\'"]""")
_SUFFIXES = frozenset({".sql", ".yml", ".yaml", ".py", ".md"})
_NEVER = ("DBT_ENV_SECRET_*", "DBT_RELAY_*", "REDIS_URL")
"""Secrets belong to the worker's own environment; broker settings to nobody's project."""

_NOTED = "DBT_ENV_CUSTOM_ENV_"
"""dbt notes these in the metadata of events and artifacts (dbt_common.events.functions)."""

MAX_FILE_BYTES = 4 * 1024 * 1024


def names_used(folders: Iterable[Path]) -> set[str]:
    """Names in the ``env_var`` calls of every project file below `folders`. A file that looks untouched
    since this process last read it is not read again."""
    names: set[str] = set()
    for folder in folders:
        for path in _files(str(folder)):
            try:
                names.update(_names.of(path))
            except OSError:  # noqa: PERF203 - each file for itself
                continue  # a file that cannot be read here is dbt's to complain about
    return names


def _files(folder: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "target":
                yield from _files(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
            yield entry.path


def _read(path: str) -> frozenset[str]:
    if os.path.getsize(path) > MAX_FILE_BYTES:
        return frozenset()
    raw = Path(path).read_bytes()
    return frozenset(_CALL.findall(raw.decode(errors="replace")) if b"env_var" in raw else ())


_names = OfFiles(_read)


def names_noted(environ: Iterable[str]) -> set[str]:
    """Those names of `environ` that dbt notes in its artifacts, whatever the project reads."""
    return {name for name in environ if name.startswith(_NOTED)}


def denied(name: str, deny: str) -> bool:
    """Whether a deny-list (names with ``*``, comma between) covers `name`."""
    patterns = [pattern.strip() for pattern in deny.split(",") if pattern.strip()]
    return any(fnmatchcase(name.upper(), pattern.upper()) for pattern in (*_NEVER, *patterns))


def allowed(env: Mapping[str, str], deny: str) -> dict[str, str]:
    """`env` without what the deny-list covers."""
    return {name: value for name, value in env.items() if not denied(name, deny)}
