"""Copies a dbt project without generated files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

LEFT_OUT = frozenset({".git", "__pycache__", "logs", "node_modules", "target"})
"""Folders that are not copied. Virtual environments and the project's target folder are not copied either."""


def copy_project(source: Path, destination: Path, leave_out: Collection[Path] = ()) -> None:
    """Copy a project. `destination` must not exist.

    Symbolic links stay links: a link into the project points to the same file of the copy, any other link to
    its original target.

    Args:
        leave_out: absolute paths of more files and folders that are not copied.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    root, ignored = source.resolve(), {path.resolve() for path in leave_out}
    shutil.copytree(root, destination, symlinks=True, ignore=_ignore(root, ignored))
    for folder, folders, files in os.walk(destination):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink():
                _retarget(link, root, destination)


def _ignore(root: Path, ignored: Collection[Path]) -> Callable[[str, list[str]], set[str]]:
    def ignore(folder: str, names: list[str]) -> set[str]:
        found = set()
        for name in names:
            path = Path(folder, name)
            generated = path.is_dir() and (
                name in LEFT_OUT & {".git", "__pycache__", "node_modules"}
                or (Path(folder) == root and name in LEFT_OUT)
                or (path / "pyvenv.cfg").exists()
            )
            special = not (path.is_symlink() or path.is_dir() or path.is_file())  # sockets, pipes
            if generated or special or path in ignored:
                found.add(name)
        return found

    return ignore


def _retarget(link: Path, root: Path, destination: Path) -> None:
    """Correct the target of a copied link, which may be relative, or absolute and inside the original."""
    target = Path(os.readlink(link))
    original = root / link.relative_to(destination)
    resolved = Path(os.path.normpath(original.parent / target))
    if resolved.is_relative_to(root):
        resolved = destination / resolved.relative_to(root)
    link.unlink()
    link.symlink_to(resolved)
