"""A copy of a dbt project, without what dbt and tools make of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

LEFT_OUT = frozenset({".git", "__pycache__", "logs", "node_modules", "target"})
"""Folders that no copy has, and with them every virtual environment and the project's own target folder."""


def copy_project(source: Path, destination: Path, leave_out: Collection[Path] = ()) -> None:
    """Copy a project. `destination` must not exist.

    A symbolic link stays one: into the project, it leads to the same place of the copy; out of it, to
    where it led.

    Args:
        leave_out: further files and folders, absolute.

    Raises:
        OSError: something cannot be read, or there is no room.
    """
    root, ignored = source.resolve(), {path.resolve() for path in leave_out}
    shutil.copytree(root, destination, symlinks=True, ignore=_ignore(root, ignored))
    for folder, folders, files in os.walk(destination):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink():
                _lead(link, root, destination)


def _ignore(root: Path, ignored: Collection[Path]) -> Callable[[str, list[str]], set[str]]:
    def ignore(folder: str, names: list[str]) -> set[str]:
        found = set()
        for name in names:
            path = Path(folder, name)
            made = path.is_dir() and (
                name in LEFT_OUT & {".git", "__pycache__", "node_modules"}
                or (Path(folder) == root and name in LEFT_OUT)
                or (path / "pyvenv.cfg").exists()
            )
            special = not (path.is_symlink() or path.is_dir() or path.is_file())  # sockets, pipes
            if made or special or path in ignored:
                found.add(name)
        return found

    return ignore


def _lead(link: Path, root: Path, destination: Path) -> None:
    """Make a copied link lead where it should: as it is, it would lead beside the copy, or into the original."""
    there = Path(os.readlink(link))
    original = root / link.relative_to(destination)
    meant = Path(os.path.normpath(original.parent / there))
    if meant.is_relative_to(root):
        meant = destination / meant.relative_to(root)
    link.unlink()
    link.symlink_to(meant)
