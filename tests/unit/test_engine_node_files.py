"""Files in ``target/`` stay complete if a process is interrupted while it writes them."""

from __future__ import annotations

import os
from pathlib import Path

import dbt.contracts.graph.nodes
import pytest
from dbt_common.clients.system import write_file

from workers.engine.patches.node_files import install, write_over


@pytest.mark.parametrize("text", ["select 1 as größer\n", "", "a\r\nb"])
def test_file_is_identical_to_dbts(tmp_path: Path, text: str) -> None:
    ours, theirs = tmp_path / "ours" / "deep" / "a.sql", tmp_path / "theirs" / "deep" / "a.sql"
    for write, path in ((write_over, ours), (write_file, theirs)):
        assert write(str(path), text) is True
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.stat().st_mode == theirs.stat().st_mode


def test_longer_file_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text("select 1, 2, 3, 4")
    write_over(str(path), "select 1")
    assert path.read_text() == "select 1"


def test_interrupt_after_open_keeps_the_existing_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sql"
    path.write_text("select 1")
    opened = os.open

    def interrupted(*args: object) -> int:
        os.close(opened(*args))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_over(str(path), "select 1")
    assert path.read_text() == "select 1"


def test_nodes_write_their_files_with_it() -> None:
    install()
    assert dbt.contracts.graph.nodes.write_file is write_over
