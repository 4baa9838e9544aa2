"""What a project's files say, in one hash: changed content always changes it.

Contents are hashed; a file that looks untouched since it was last hashed is not read again
(`workers.contract.file_cache`).
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.contract.file_cache import FileCache

SUFFIXES = frozenset(
    {".sql", ".py", ".yml", ".yaml", ".csv", ".md", ".json", ".ipynb", ".jinja", ".jinja2", ".j2", ".js"}
)
ROOT_FILES = (
    "dbt_project.yml", "packages.yml", "dependencies.yml", "package-lock.yml", "selectors.yml",
    "catalogs.yml", "vars.yml", ".dbtignore",
)  # fmt: skip


def _read(path: str) -> bytes:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b"unreadable"


_digests = FileCache(_read)


def _digest(path: str) -> bytes:
    try:
        return _digests.value(path)
    except OSError:
        return b"absent"


def _walk(folder: str, name: str) -> Iterator[tuple[str, str]]:
    """The project files below a folder, which `name` stands for: path and name of each."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.name.startswith(".git") and entry.name != "__pycache__":
                yield from _walk(entry.path, os.path.join(name, entry.name))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry.path, os.path.join(name, entry.name)


def fingerprint(root: str, files: Iterable[str], folders: Iterable[str]) -> str:
    """A hash over the contents and names of `files` and of every project file below `folders`.

    Names are taken relative to `root`, so that two machines with the project at different places
    agree. A missing file has a value too: its appearance changes the hash.
    """
    total = hashlib.sha256()
    seen: set[str] = set()
    named = itertools.chain(
        ((path, os.path.relpath(path, root)) for path in files),
        *(_walk(folder, _relative(folder, root)) for folder in folders),
    )
    for path, name in named:
        if path in seen:
            continue
        seen.add(path)
        total.update(name.encode())
        total.update(b"\0")
        total.update(_digest(path))
    return total.hexdigest()


def _relative(folder: str, root: str) -> str:
    name = os.path.relpath(folder, root)
    return "" if name == "." else name
