"""Which local files a DuckDB profile opens, and whether it writes them.

DuckDB locks each file that a process opens: a writer excludes all other processes, a ``READ_ONLY`` reader excludes
writers (duckdb.org/docs, "Concurrency"). This applies to a profile's ``path``, to attached DuckDB files, and to the
DuckDB file that is the catalog of a DuckLake. It does not apply to SQLite files, servers and network paths.
"""

from __future__ import annotations

import os
from typing import Any

from workers.contract.keys import warehouse_of_files

_DUCKDB = frozenset({"", "duckdb", "ducklake"})
"""Types of attached databases that are a DuckDB file, or may use one as their catalog."""


def local_warehouse(credentials: Any) -> str | None:
    """Name of the warehouse that consists of the local files of a profile (`contract.keys.warehouse_of_files`).

    Args:
        credentials: dbt-duckdb's credentials of a target. Relative paths start at the working directory.

    Returns:
        None where the profile opens no local file.
    """
    if getattr(credentials, "remote", None):
        return None  # a server opens the files
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
    """Whether a path names an in-memory database: empty, ``:memory:`` or ``:memory:name``."""
    return not path or path.startswith(":memory:")


def _local_file(path: str, kind: str, secrets: set[str]) -> str | None:
    """The local file that DuckDB opens for a path, or None.

    A prefix before the first colon is the type of the database (DuckDB's ``ExtractExtensionPrefixFromPath``):
    ``duckdb:``, ``md:``, ``sqlite:``, or ``ducklake:`` followed by the catalog.
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
