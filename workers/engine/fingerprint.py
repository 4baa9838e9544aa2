"""What a project's files say, in one hash: changed content always changes it.

Contents are hashed; a file that looks untouched since it was last hashed is not read again. A file
changed so recently that its time stamp could hide another change is always read (git's index calls
such entries racy).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = frozenset({".sql", ".py", ".yml", ".yaml", ".csv", ".md", ".json", ".ipynb", ".jinja"})
ROOT_FILES = (
    "dbt_project.yml", "packages.yml", "dependencies.yml", "package-lock.yml", "selectors.yml",
    "catalogs.yml", "vars.yml", ".dbtignore",
)  # fmt: skip
RACY_SECONDS = 2.0

_known: dict[str, tuple[tuple[int, int, int, int], float, bytes]] = {}


def _digest(path: str) -> bytes:
    try:
        stat = os.stat(path)
    except OSError:
        return b"absent"
    shape = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    known = _known.get(path)
    newest = max(stat.st_mtime, stat.st_ctime)
    if known and known[0] == shape and known[1] - newest > RACY_SECONDS:
        return known[2]
    read_at = time.time()
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b"unreadable"
    _known[path] = (shape, read_at, digest)
    return digest


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
