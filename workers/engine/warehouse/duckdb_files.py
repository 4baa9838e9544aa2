"""Which local files a DuckDB profile opens, and whether to write them.

DuckDB locks each file that a process opens: for writing against everybody, with ``READ_ONLY`` against those who
write (duckdb.org/docs, "Concurrency"). That holds for a profile's ``path``, and for what it attaches, also for the
DuckDB file that is the catalog of a DuckLake. It does not for SQLite files, which many processes may have open, for
servers, and for what is read over a network.
"""

from __future__ import annotations

import os
from typing import Any

from workers.contract.keys import warehouse_of_files

_DUCKDB = frozenset({"", "duckdb", "ducklake"})
"""Types of an attached database that are a DuckDB file, or may have one as their catalog."""


def local_warehouse(credentials: Any) -> str | None:
    """The name of the files that a profile opens on this machine (`contract.keys.warehouse_of_files`).

    Args:
        credentials: dbt-duckdb's, of a target. Relative paths are resolved against the working directory.

    Returns:
        None where there are none.
    """
    if getattr(credentials, "remote", None):
        return None  # a server opens them
    options = getattr(credentials, "config_options", None) or {}
    secrets = {str(getattr(secret, "name", "")) for secret in getattr(credentials, "_secrets", ())}
    files: dict[str, bool] = {}

    def add(path: str, kind: str, *, writes: bool) -> None:
        found = _local_file(path, kind.lower(), secrets)
        if found:
            name = "duckdb:" + os.path.realpath(os.path.expanduser(found))
            files[name] = files.get(name, False) or writes

    add(credentials.path, "", writes=str(options.get("access_mode", "")).upper() != "READ_ONLY")
    for attached in credentials.attach or ():
        more = getattr(attached, "options", None) or {}
        kind = getattr(attached, "type", None) or more.get("type") or ""
        add(attached.path, str(kind), writes=not (attached.read_only or more.get("read_only")))
    return warehouse_of_files(files) if files else None


def in_memory(path: str) -> bool:
    """Whether a database has no file: ``:memory:``, also with a name, or nothing at all."""
    return not path or path.startswith(":memory:")


def _local_file(path: str, kind: str, secrets: set[str]) -> str | None:
    """The file that DuckDB opens for a path, or None where it opens none on this machine.

    A word before the first colon is the type of the database (DuckDB's ``ExtractExtensionPrefixFromPath``):
    ``duckdb:``, ``md:``, ``sqlite:``, ``ducklake:`` before what is the catalog.
    """
    prefix, colon, rest = path.partition(":")
    if in_memory(path) or kind not in _DUCKDB:
        return None
    if path.startswith("file:///"):
        return rest[2:]
    if rest.startswith("//"):
        return None
    if not colon or len(prefix) < 2 or not prefix.replace("_", "").isalnum():
        return path
    if prefix.lower() == "ducklake" and kind != "duckdb":
        return None if rest in secrets else _local_file(rest, "", secrets)
    return _local_file(rest, "duckdb", secrets) if prefix.lower() == "duckdb" else None
