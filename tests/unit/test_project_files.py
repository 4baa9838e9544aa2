"""Comparison of a worker's copy of a project with the caller's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from workers.contract.project_files import Copy, copy_of, decode_copy, differences, encode_copy


@pytest.fixture
def callers(tmp_path: Path) -> Path:
    root = tmp_path / "callers"
    for name, text in {
        "dbt_project.yml": "name: shop\n", "models/a.sql": "select 1\nas x\n", "models/deep/b.yml": "b",
        "dbt_packages/utils/dbt_project.yml": "version: 1", "dbt_packages/utils/macros/m.sql": "m",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def workers(callers: Path, tmp_path: Path) -> Path:
    return shutil.copytree(callers, tmp_path / "workers")


def sent(root: Path, config: Mapping[str, Any] | None = None) -> Copy:
    copy = decode_copy(encode_copy(copy_of(str(root), config or {})))
    assert copy is not None
    return copy


def write(root: Path, name: str, text: str | None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text, newline="")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("models/a.sql", "select 2\nas x\n", {"models/a.sql": "differs"}),
        ("models/a.sql", None, {"models/a.sql": "missing here"}),
        ("models/new.py", "", {"models/new.py": "only here"}),
        ("packages.yml", "packages: []", {"packages.yml": "only here"}),
        ("dbt_packages/utils/macros/m.sql", "other", {"dbt_packages/utils/": "differs"}),
        ("dbt_packages/more/dbt_project.yml", "more", {"dbt_packages/more/": "only here"}),
        ("models/a.sql", "select 1\r\nas x\r\n", {}),
        ("profiles.yml", "of the worker", {}),
        ("package-lock.yml", "lock", {}),
        ("target/compiled/a.sql", "select 3", {}),
        ("models/.hidden/a.sql", "select 4", {}),
        ("notebooks/a.sql", "select 5", {}),
    ],
)
def test_differences_of_project_files(
    callers: Path, workers: Path, name: str, text: str | None, found: dict[str, str]
) -> None:
    write(workers, name, text)
    assert differences(str(workers), sent(callers)) == found


def test_packages_are_compared_if_both_sides_have_some(callers: Path, workers: Path) -> None:
    write(workers, "dbt_packages/utils/dbt_project.yml", "version: 2")
    assert differences(str(workers), sent(callers), packages=False) == {}
    assert differences(str(workers), sent(callers)) == {"dbt_packages/utils/": "differs"}
    shutil.rmtree(workers / "dbt_packages")
    assert differences(str(workers), sent(callers)) == {}
    assert differences(str(callers), sent(workers)) == {}


def test_folders_are_those_of_the_project_file(callers: Path, workers: Path) -> None:
    for root in (callers, workers):
        (root / "models").rename(root / "sql")
    write(workers, "sql/a.sql", "select 2")
    assert differences(str(workers), sent(callers, {"model-paths": ["sql"]})) == {"sql/a.sql": "differs"}
    odd = {"model-paths": ["{{ var('x') }}", "/", "..", 3], "packages-install-path": None}
    assert differences(str(workers), sent(callers, odd)) == {}


def test_one_folder_is_not_compared_with_itself(callers: Path, tmp_path: Path) -> None:
    copy = sent(callers)
    write(callers, "models/a.sql", "an edit since")
    (tmp_path / "link").symlink_to(callers)
    assert differences(str(tmp_path / "link"), copy) == {}


def test_a_large_project_is_compared_by_folder(
    callers: Path, workers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.contract.project_files._MAX_SIZE", 10)
    write(workers, "models/deep/b.yml", "other")
    assert differences(str(workers), sent(callers)) == {"models/deep/": "differs"}


def loop(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.sql")).write_text("select 1")


def dangling(folder: Path) -> None:
    (folder / "gone.sql").symlink_to(folder / "nowhere")


@pytest.mark.parametrize("make", [loop, not_utf8, dangling])
def test_unusual_files_are_equal_on_both_sides(
    callers: Path, workers: Path, make: Callable[[Path], None]
) -> None:
    for root in (callers, workers):
        make(root / "models")
    assert differences(str(workers), sent(callers)) == {}


@pytest.mark.parametrize("text", ["", "{", "0123456789", "\N{SNOWMAN}"])
def test_copy_of_another_release_is_ignored(text: str) -> None:
    assert decode_copy(text) is None
