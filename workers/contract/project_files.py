"""Compares a worker's copy of a dbt project with its caller's copy.

The caller sends a digest of each file and the names of the folders that dbt reads, in a variable of the environment.
Workers of older releases ignore it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from workers.contract.file_cache import FileCache
from workers.contract.folder_identity import folder_identity

FILES = "DBT_RELAY_CALLER_FILES"

PROJECT_FILE = "dbt_project.yml"
_ROOT_FILES = (
    PROJECT_FILE,
    "packages.yml",
    "dependencies.yml",
    "selectors.yml",
    "catalogs.yml",
    "vars.yml",
    ".dbtignore",
)
"""``profiles.yml`` is left out because a worker may have its own, ``package-lock.yml`` because `dbt deps` writes it."""

_SUFFIXES = frozenset({".sql", ".py", ".yml", ".yaml", ".csv", ".md", ".json", ".ipynb", ".jinja"})

_FOLDERS = {
    "model-paths": ["models"], "seed-paths": ["seeds"], "snapshot-paths": ["snapshots"],
    "analysis-paths": ["analyses"], "macro-paths": ["macros"], "test-paths": ["tests"],
    "function-paths": ["functions"], "docs-paths": [], "asset-paths": [],
}  # fmt: skip
"""Settings of dbt_project.yml with dbt's defaults (dbt.config.project.PartialProject)."""

_MAX_SIZE = 768 * 1024
"""Maximal bytes of the variable. A larger project is sent with one digest per folder."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one copy of a project.

    Attributes:
        place: identity of its folder (`folder_identity`).
        folders: relative paths of the folders that dbt reads.
        packages: relative path of the folder of installed packages.
        files: digests by relative path. The name of a folder ends with ``/``; its digest covers its files.
    """

    place: str
    folders: list[str]
    packages: str
    files: dict[str, str]


def _read(path: str) -> bytes:
    """Return a digest of a file that does not depend on its kind of line ends."""
    return hashlib.blake2b(Path(path).read_bytes().replace(b"\r\n", b"\n"), digest_size=8).digest()


_digests = FileCache(_read)


def _walk(folder: str, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield path and relative name of each project file below a folder. A symlink to a folder above is not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
            yield entry.path, f"{name}{entry.name}"
        elif entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if real not in above and not folder.startswith(real + os.sep):
                yield from _walk(entry.path, f"{name}{entry.name}/", (*above, real))


def _digest(path: str) -> str:
    try:
        return _digests.value(path).hex()
    except OSError:
        return "unreadable"


def _files_of(root: str, folders: Sequence[str]) -> dict[str, str]:
    found = {name: os.path.join(root, name) for name in _ROOT_FILES}
    digests = {name: _digest(path) for name, path in found.items() if os.path.isfile(path)}
    for folder in folders:
        for path, name in _walk(os.path.join(root, folder), f"{folder}/"):
            if name not in digests:
                digests[name] = _digest(path)
    return digests


def _digest_of_digests(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.blake2b(os.fsencode(lines), digest_size=8).hexdigest()


def _by_folder(digests: Mapping[str, str]) -> dict[str, str]:
    folders: dict[str, dict[str, str]] = {}
    for name, digest in digests.items():
        folders.setdefault(f"{os.path.dirname(name)}/", {})[name] = digest
    return {folder: _digest_of_digests(files) for folder, files in folders.items()}


def _packages_of(root: str, packages: str) -> dict[str, str]:
    """Return one digest for each installed package."""
    above, found = os.path.join(root, packages), {}
    try:
        names = sorted(entry.name for entry in os.scandir(above) if entry.is_dir())
    except OSError:
        return {}
    for name in names:
        files = {each: _digest(path) for path, each in _walk(os.path.join(above, name), "")}
        found[f"{packages}/{name}/"] = _digest_of_digests(files)
    return found


def _relative(paths: object) -> list[str]:
    """Return the configured paths that can be read without dbt: relative, without Jinja, in the project."""
    given = paths if isinstance(paths, list) else [paths]
    names = [os.path.normpath(path) for path in given if isinstance(path, str) and "{{" not in path]
    return [name for name in names if not os.path.isabs(name) and not name.startswith("..")]


def copy_of(root: str, config: Mapping[str, Any]) -> Copy:
    """Describe the project in a folder.

    Args:
        root: path of the folder.
        config: the content of its ``dbt_project.yml``.
    """
    folders = sorted(
        {name for key, default in _FOLDERS.items() for name in _relative(config.get(key, default))}
    )
    packages = (_relative(config.get("packages-install-path", "dbt_packages")) or [""])[0]
    files = {**_files_of(root, folders), **(_packages_of(root, packages) if packages else {})}
    return Copy(place=folder_identity(root), folders=folders, packages=packages, files=files)


def encode_copy(copy: Copy) -> str:
    """Encode a copy as text of limited size."""
    text = _encoded(copy)
    if len(text) > _MAX_SIZE:
        packages = {name: digest for name, digest in copy.files.items() if name.endswith("/")}
        files = {name: digest for name, digest in copy.files.items() if name not in packages}
        text = _encoded(msgspec.structs.replace(copy, files={**_by_folder(files), **packages}))
    return text


def _encoded(copy: Copy) -> str:
    escaped = {
        os.fsencode(name).decode(errors="backslashreplace"): digest for name, digest in copy.files.items()
    }
    raw = msgspec.json.encode(msgspec.structs.replace(copy, files=escaped))
    return base64.b85encode(zlib.compress(raw, 1)).decode()


def decode_copy(text: str) -> Copy | None:
    """Decode a copy. Returns None for a text that this release cannot read."""
    try:
        return msgspec.json.decode(zlib.decompress(base64.b85decode(text)), type=Copy)
    except (ValueError, zlib.error, binascii.Error, msgspec.DecodeError):
        return None


def differences(root: str, callers: Copy, *, packages: bool = True) -> dict[str, str]:
    """Compare the project in a folder of this machine with its caller's copy.

    Args:
        root: path of the folder.
        callers: the caller's copy.
        packages: whether to compare installed packages. They are compared only if both sides have some: without them
            dbt itself refuses to run.

    Returns:
        Name of file or folder -> ``differs``, ``missing here`` or ``only here``. Empty if both copies are equal or
        are the same folder.
    """
    if callers.place and callers.place == folder_identity(root):
        return {}
    mine = _files_of(root, callers.folders)
    theirs = dict(callers.files)
    installed = f"{callers.packages}/"
    their_packages = {
        name: theirs.pop(name) for name in list(theirs) if name.startswith(installed) and name.endswith("/")
    }
    if any(name.endswith("/") for name in theirs):
        mine = _by_folder(mine)
    else:
        mine = {os.fsencode(name).decode(errors="backslashreplace"): digest for name, digest in mine.items()}
    found = _compared(mine, theirs)
    if packages and their_packages and (my_packages := _packages_of(root, callers.packages)):
        found.update(_compared(my_packages, their_packages))
    return found


def _compared(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted({*mine, *theirs}):
        if name not in mine:
            found[name] = "missing here"
        elif name not in theirs:
            found[name] = "only here"
        elif mine[name] != theirs[name]:
            found[name] = "differs"
    return found
