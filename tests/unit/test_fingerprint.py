"""The hash of a project's files: every change of their content changes it, and nothing else does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from workers.engine.project.fingerprint import fingerprint


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "dbt_project.yml").write_text("name: p\n")
    (tmp_path / "models" / "a.sql").write_text("select 1")
    (tmp_path / "models" / "deep" / "b.sql").write_text("select 2")
    return tmp_path


def of(project: Path) -> str:
    return fingerprint(str(project), [str(project / "dbt_project.yml")], [str(project / "models")])


def age(path: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_unchanged_project_keeps_its_fingerprint(project: Path) -> None:
    assert of(project) == of(project)


@pytest.mark.parametrize("name", ["dbt_project.yml", "models/a.sql", "models/deep/b.sql"])
def test_changed_content_of_the_same_length_changes_the_fingerprint(project: Path, name: str) -> None:
    before = of(project)
    text = (project / name).read_text()
    (project / name).write_text(text[:-1] + ("3" if text[-1] != "3" else "4"))
    assert of(project) != before


def test_touched_file_with_its_old_content_keeps_the_fingerprint(project: Path) -> None:
    before = of(project)
    os.utime(project / "models" / "a.sql")
    assert of(project) == before


def test_added_moved_and_removed_files_change_the_fingerprint(project: Path) -> None:
    seen = {of(project)}
    (project / "models" / "c.yml").write_text("")
    seen.add(of(project))
    (project / "models" / "c.yml").rename(project / "models" / "d.yml")
    seen.add(of(project))
    (project / "models" / "d.yml").unlink()
    (project / "models" / "a.sql").unlink()
    seen.add(of(project))
    (project / "dbt_project.yml").unlink()
    seen.add(of(project))
    assert len(seen) == 5


def test_files_that_dbt_does_not_read_keep_the_fingerprint(project: Path) -> None:
    before = of(project)
    (project / "models" / "notes.txt").write_text("x")
    (project / "models" / "__pycache__").mkdir()
    (project / "models" / "__pycache__" / "m.py").write_text("x")
    assert of(project) == before


def test_moved_project_keeps_its_fingerprint(project: Path, tmp_path: Path) -> None:
    before = of(project)
    moved = tmp_path.parent / f"{tmp_path.name}_moved"
    project.rename(moved)
    assert of(moved) == before


def test_change_with_an_old_time_stamp_changes_the_fingerprint(project: Path) -> None:
    """Two writes within the resolution of the file system's clock, of the same length."""
    path = project / "models" / "a.sql"
    before = of(project)
    stat = path.stat()
    path.write_text("select 7")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert of(project) != before


def test_old_unmodified_file_is_not_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what was hashed long after its last change needs no second look
    monkeypatch.setattr("workers.contract.file_cache.RACY_SECONDS", -1.0)
    before = of(project)
    reads: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or plain(self))
    assert of(project) == before
    assert reads == []


def test_recent_file_is_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of(project)
    reads: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or plain(self))
    of(project)
    assert len(reads) == 3


def test_missing_folder_counts_as_an_empty_one(project: Path) -> None:
    one = fingerprint(str(project), [], [str(project / "nowhere")])
    assert one == fingerprint(str(project), [], [])


def test_unreadable_file_has_a_fingerprint(project: Path) -> None:
    one = fingerprint(str(project), [str(project / "models")], [])  # a folder in a file's place
    assert one != fingerprint(str(project), [str(project / "absent")], [])
