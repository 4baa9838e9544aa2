"""A project's linked graph, kept for later runs, and the two files that dbt writes of it in every command."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from typing import Any

import msgspec
from dbt.compilation import graph_file_name
from dbt.flags import get_flags
from dbt.graph import Graph
from dbt_common.invocation import get_invocation_id

from workers.engine.project.manifest_file import write_bytes

_SUMMARY = "graph_summary.json"
_INVOCATION = "_invocation_id"


class LinkedGraph(msgspec.Struct, kw_only=True):
    """dbt's graph of a parsed project.

    Attributes:
        summary: graph_summary.json without the invocation id; None if another command overwrote it.
        pickled: graph.gpickle, compressed; None where dbt did not write it.
        checksum: CRC-32 of graph.gpickle.
        written: path, inode, size and mtime of graph.gpickle when this process last wrote or checked it.
    """

    graph: Graph
    summary: dict[str, Any] | None = None
    pickled: bytes | None = None
    checksum: int = 0
    written: tuple[str, int, int, int] | None = None

    def write(self, target: str) -> bool:
        """Write the files that dbt writes when it links the graph.

        Returns:
            False, without a file written, where a file's content is not known.
        """
        to_pickle = bool(get_flags().WRITE_JSON)
        if self.summary is None or (to_pickle and self.pickled is None):
            return False
        summary = {_INVOCATION: get_invocation_id(), **self.summary}
        write_bytes(os.path.join(target, _SUMMARY), json.dumps(summary).encode())
        if to_pickle and self.pickled is not None:
            self._write_pickle(self.pickled, os.path.join(target, graph_file_name))
        return True

    def _write_pickle(self, pickled: bytes, path: str) -> None:
        """Write graph.gpickle unless the file is unchanged: it is large, and the same in each command."""
        state = _state_of(path)
        if state is not None and state == self.written:
            return
        if _checksum(path) != self.checksum:
            write_bytes(path, zlib.decompress(pickled))
        self.written = _state_of(path)


def linked_by_dbt(graph: Graph, target: str) -> LinkedGraph:
    """Read the files that dbt has just written into its target folder.

    Another command may write to the same folder. dbt writes the summary first. So if the summary is this command's
    after graph.gpickle was read, both files are this command's.
    """
    linked = LinkedGraph(graph=graph)
    if get_flags().WRITE_JSON:
        path = os.path.join(target, graph_file_name)
        with contextlib.suppress(OSError), open(path, "rb") as pickle:
            content = pickle.read()
            linked.pickled, linked.checksum = zlib.compress(content, 1), zlib.crc32(content)
            linked.written = _state_of(path)
    with (
        contextlib.suppress(OSError, ValueError),
        open(os.path.join(target, _SUMMARY), encoding="utf-8") as file,
    ):
        summary = json.load(file)
        if summary.pop(_INVOCATION, None) == get_invocation_id():
            linked.summary = summary
    return linked


def _state_of(path: str) -> tuple[str, int, int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return path, found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _checksum(path: str) -> int | None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return zlib.crc32(file.read())
    return None
