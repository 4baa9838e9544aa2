"""Writes a node's files in ``target/`` without truncating them first.

A process that was stopped for longer than its lease may open a file that another process has written since, and may be
interrupted or killed at any moment. With dbt's function, which truncates first, the file would stay empty.
"""

from __future__ import annotations

import os

import dbt.contracts.graph.nodes
from dbt_common.clients.system import convert_path, make_directory, write_file


def write_over(path: str, contents: str = "") -> bool:
    """Write a file as `dbt_common.clients.system.write_file` does, but truncate it only after the write.

    Raises:
        OSError: the file cannot be written (a full disk, for example).
    """
    if os.name == "nt":
        return bool(write_file(path, contents))
    path, content = convert_path(path), str(contents).encode()
    make_directory(os.path.dirname(path))
    with open(path, "wb", opener=_without_truncating) as file:
        file.write(content)
        file.truncate()
    return True


def install() -> None:
    """Make dbt write the files of nodes with `write_over` (`patches.catalog.NEEDED`)."""
    dbt.contracts.graph.nodes.write_file = write_over


def _without_truncating(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)
