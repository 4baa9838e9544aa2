"""Whether a worker's copy of a dbt project has the same files as its caller's.

The caller sends a digest of each file, and the names of the folders that dbt reads. It travels as a value of the
environment, as `surroundings` do: a worker of an older release ignores it.
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
"""Not ``profiles.yml``: a worker may have a profile of its own. Not ``package-lock.yml``: `dbt deps` writes it."""

_SUFFIXES = frozenset({".sql", ".py", ".yml", ".yaml", ".csv", ".md", ".json", ".ipynb", ".jinja"})

_FOLDERS = {
    "model-paths": ["models"], "seed-paths": ["seeds"], "snapshot-paths": ["snapshots"],
    "analysis-paths": ["analyses"], "macro-paths": ["macros"], "test-paths": ["tests"],
    "function-paths": ["functions"], "docs-paths": [], "asset-paths": [],
}  # fmt: skip
"""Settings of dbt_project.yml with dbt's defaults (dbt.config.project.PartialProject)."""

_MAX_SIZE = 768 * 1024
"""Bytes of the value that travels. The digests of a larger project are sent by folder."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a project.

    Attributes:
        place: of its folder (`place.folder_identity`).
        folders: relative paths that dbt reads files from.
        packages: relative path of the folder of installed packages.
        files: digests by relative path; a folder's name ends with ``/``, and its digest covers its files.
    """

    place: str
    folders: list[str]
    packages: str
    files: dict[str, str]


def _read(path: str) -> bytes:
    """A digest of a file, the same with either kind of line ends."""
    return hashlib.blake2b(Path(path).read_bytes().replace(b"\r\n", b"\n"), digest_size=8).digest()


_digests = FileCache(_read)


def _walk(folder: str, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Path and relative name of each project file below a folder. A link that leads upwards is not followed."""
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


def _hex(path: str) -> str:
    try:
        return _digests.value(path).hex()
    except OSError:
        return "unreadable"


def _files_of(root: str, folders: Sequence[str]) -> dict[str, str]:
    found = {name: os.path.join(root, name) for name in _ROOT_FILES}
    digests = {name: _hex(path) for name, path in found.items() if os.path.isfile(path)}
    for folder in folders:
        for path, name in _walk(os.path.join(root, folder), f"{folder}/"):
            if name not in digests:
                digests[name] = _hex(path)
    return digests


def _together(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.blake2b(os.fsencode(lines), digest_size=8).hexdigest()


def _by_folder(digests: Mapping[str, str]) -> dict[str, str]:
    folders: dict[str, dict[str, str]] = {}
    for name, digest in digests.items():
        folders.setdefault(f"{os.path.dirname(name)}/", {})[name] = digest
    return {folder: _together(files) for folder, files in folders.items()}


def _packages_of(root: str, packages: str) -> dict[str, str]:
    """One digest for each installed package."""
    above, found = os.path.join(root, packages), {}
    try:
        names = sorted(entry.name for entry in os.scandir(above) if entry.is_dir())
    except OSError:
        return {}
    for name in names:
        files = {each: _hex(path) for path, each in _walk(os.path.join(above, name), "")}
        found[f"{packages}/{name}/"] = _together(files)
    return found


def _relative(paths: object) -> list[str]:
    """Those of configured paths that can be looked at without dbt: relative, with no Jinja, in the project."""
    given = paths if isinstance(paths, list) else [paths]
    names = [os.path.normpath(path) for path in given if isinstance(path, str) and "{{" not in path]
    return [name for name in names if not os.path.isabs(name) and not name.startswith("..")]


def copy_of(root: str, config: Mapping[str, Any]) -> Copy:
    """The project in a folder.

    Args:
        config: its ``dbt_project.yml`` as YAML gives it.
    """
    folders = sorted(
        {name for key, default in _FOLDERS.items() for name in _relative(config.get(key, default))}
    )
    packages = (_relative(config.get("packages-install-path", "dbt_packages")) or [""])[0]
    files = {**_files_of(root, folders), **(_packages_of(root, packages) if packages else {})}
    return Copy(place=folder_identity(root), folders=folders, packages=packages, files=files)


def encode_copy(copy: Copy) -> str:
    """A copy as text, within the size that may travel."""
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
    """A copy from its text; None where it cannot be read, as from another release."""
    try:
        return msgspec.json.decode(zlib.decompress(base64.b85decode(text)), type=Copy)
    except (ValueError, zlib.error, binascii.Error, msgspec.DecodeError):
        return None


def differences(root: str, callers: Copy, *, packages: bool = True) -> dict[str, str]:
    """How the project in a folder of this machine differs from its caller's.

    Args:
        packages: whether installed packages count. They count only where both sides have installed some: dbt itself
            refuses to run without them.

    Returns:
        By name of file or folder what is wrong with it: ``differs``, ``missing here`` or ``only here``; empty where
        both are the same, or are one folder.
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
