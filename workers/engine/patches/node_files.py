"""A node's files in ``target/`` are written over what is there, not into a file that was emptied first.

A process that was stopped for longer than its lease may come to such a file when another has written it, and is
interrupted, or killed, at any moment: with dbt's own way the file would stay empty.
"""

from __future__ import annotations

import os

import dbt.contracts.graph.nodes
from dbt_common.clients.system import convert_path, make_directory, write_file


def write_over(path: str, contents: str = "") -> bool:
    """What `dbt_common.clients.system.write_file` does, without the moment in which the file is empty.

    Raises:
        OSError: the disk is full …
    """
    if os.name == "nt":
        return bool(write_file(path, contents))
    path, content = convert_path(path), str(contents).encode()
    make_directory(os.path.dirname(path))
    with open(path, "wb", opener=_without_emptying) as file:
        file.write(content)
        file.truncate()
    return True


def install() -> None:
    """Make dbt write the files of nodes like this (`patches.catalog.NEEDED`)."""
    dbt.contracts.graph.nodes.write_file = write_over


def _without_emptying(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)
