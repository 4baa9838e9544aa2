"""Copies the files of a DuckDB warehouse: the main file and those that the profile attaches."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.contract.errors import DbtUsageError
from workers.verify.warehouses import DuckDBFile

_MOTHERDUCK = ("md:", "motherduck:")


class DuckDBSource:
    """The warehouse of a rendered DuckDB target.

    Args:
        credentials: of the target, as dbt renders them.
        project: base of relative paths: dbt changes into the project's folder.

    Raises:
        DbtUsageError: the warehouse cannot be copied as files.
    """

    def __init__(self, credentials: Mapping[str, Any], project: Path) -> None:
        if credentials.get("remote"):
            raise _refused("`remote` is a DuckDB database in another program")
        self.path = _local(str(credentials.get("path", ":memory:")), "its path", project)
        self.attached = [_attached(entry, project) for entry in credentials.get("attach") or ()]
        root = str(credentials.get("external_root", "."))
        if "://" in root or not (project / root).resolve().is_relative_to(project.resolve()):
            raise _refused(
                f"external_root is {root}, outside the project: both sides would write the same files there"
            )
        self.key = ("duckdb", str(self.path), *(f"{name}={path}" for name, path in self._files()))

    def __str__(self) -> str:
        return f"the DuckDB file {self.path}"

    @property
    def files(self) -> list[Path]:
        """Paths of all its files and of their write-ahead logs, which may not exist."""
        paths = [self.path, *(path for _, path in self._files())]
        return [each for path in paths for each in (path, _wal(path))]

    @contextlib.contextmanager
    def copies(self, folders: Mapping[str, Path]) -> Iterator[dict[str, tuple[DuckDBFile, dict[str, Any]]]]:
        """Copy the files into each of `folders`, by the side's name.

        Each file is open for reading while it is copied, so that no other process writes to it.

        Yields:
            by side: the copy, and the changes of its target in the profile.

        Raises:
            DbtUsageError: another process writes to a file, or it cannot be copied.
        """
        for number, path in enumerate([self.path, *(path for _, path in self._files())]):
            _copy(path, [folder / "warehouse" / str(number) / path.name for folder in folders.values()])
        yield {name: self._copy_in(folder / "warehouse") for name, folder in folders.items()}

    def _files(self) -> list[tuple[str, Path]]:
        return [(name, path) for name, path, _ in self.attached]

    def _copy_in(self, folder: Path) -> tuple[DuckDBFile, dict[str, Any]]:
        main = folder / "0" / self.path.name  # the same name: DuckDB derives the catalog's name from it
        attached = {
            name: folder / str(number) / path.name
            for number, (name, path) in enumerate(self._files(), start=1)
        }
        changes: dict[str, Any] = {"path": str(main)}
        if self.attached:
            changes["attach"] = [{**entry, "path": str(attached[name])} for name, _, entry in self.attached]
        return DuckDBFile(main, attached=attached), changes


def _attached(entry: Mapping[str, Any], project: Path) -> tuple[str, Path, dict[str, Any]]:
    shown = str(entry.get("path", ""))
    options = {str(name).lower(): value for name, value in (entry.get("options") or {}).items()}
    kind = str(entry.get("type") or options.get("type") or "duckdb").lower()
    if kind != "duckdb" or entry.get("is_ducklake"):
        raise _refused(f"it attaches {shown}, which is not a DuckDB file")
    path = _local(shown, "a path that it attaches", project)
    name = str(entry.get("alias") or path.name.lstrip(".").split(".")[0])
    return name, path, dict(entry)


def _local(text: str, what: str, project: Path) -> Path:
    lower = text.lower()
    if lower in ("", ":memory:") or lower.startswith(":memory:"):
        raise _refused(f"{what} is :memory:, which exists only in one process")
    if lower.startswith(_MOTHERDUCK):
        raise _refused(
            f"{what} is {text.split('?', maxsplit=1)[0]}, on MotherDuck, which cannot be copied as a file"
        )
    if lower.startswith("ducklake:") or "://" in lower:
        raise _refused(f"{what} is {text.split('?', maxsplit=1)[0]}, which is not a file on this machine")
    return Path(os.path.normpath(project / Path(text).expanduser()))


def _refused(why: str) -> DbtUsageError:
    return DbtUsageError(
        f"The DuckDB warehouse of this target cannot be copied: {why}.\n"
        "verify supports DuckDB files and Postgres databases: choose another target with --target."
    )


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _copy(path: Path, copies: list[Path]) -> None:
    import duckdb

    for copy in copies:
        copy.parent.mkdir(parents=True)
    if not path.exists():
        return  # dbt creates it
    try:
        with contextlib.closing(duckdb.connect(str(path), read_only=True)):
            for copy in copies:
                shutil.copyfile(path, copy)
                if _wal(path).exists():
                    shutil.copyfile(_wal(path), _wal(copy))
    except (duckdb.Error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DbtUsageError(
            f"{path} cannot be copied: {reason}\n"
            "Close every program that has it open (another dbt, a notebook, a database browser) and try again."
        ) from error
