"""Runtime folders of embedded stacks: privacy, locks, sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from producer.embedded import runtime_dirs
from workers.contract.errors import RelayError


def test_base_folder_is_private_and_in_the_temporary_folder(base: Path) -> None:
    environ = {"TMPDIR": str(base), "XDG_RUNTIME_DIR": "/elsewhere"}
    assert runtime_dirs.existing_base(environ) is None
    path = runtime_dirs.base_dir(environ)
    assert path == base / f"dbt-relay-{os.geteuid()}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert runtime_dirs.existing_base(environ) == path


def test_setting_overrides_the_base_folder(base: Path) -> None:
    environ = {"TMPDIR": str(base), "DBT_RELAY_RUNTIME_DIR": str(base / "mine" / "deep")}
    assert runtime_dirs.base_dir(environ) == base / "mine" / "deep"


def test_folder_that_others_can_write_is_an_error(base: Path) -> None:
    base.chmod(0o777)
    with pytest.raises(RelayError, match=r"(?s)other users may write there.*DBT_RELAY_RUNTIME_DIR"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base)})
    assert runtime_dirs.existing_base({"DBT_RELAY_RUNTIME_DIR": str(base)}) is None
    with pytest.raises(RelayError, match="other users may write there"):
        runtime_dirs.new_stack_dir({}, base)


def test_folder_of_another_user_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(RelayError, match="belongs to another user"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base)})


def test_symbolic_link_in_the_temporary_folder_is_skipped(base: Path) -> None:
    (base / "target").mkdir()
    (base / "tmp").mkdir()
    (base / "tmp" / f"dbt-relay-{os.geteuid()}").symlink_to(base / "target")
    environ = {"TMPDIR": str(base / "tmp"), "XDG_RUNTIME_DIR": str(base)}
    assert runtime_dirs.base_dir(environ) == base / "dbt-relay"
    assert runtime_dirs.existing_base(environ) == base / "dbt-relay"


def test_file_in_place_of_the_folder_is_an_error(base: Path) -> None:
    (base / "file").touch()
    with pytest.raises(RelayError, match="File exists"):
        runtime_dirs.base_dir({"DBT_RELAY_RUNTIME_DIR": str(base / "file")})


def test_stack_folders_are_private_new_and_locked(base: Path) -> None:
    one, two = (runtime_dirs.new_stack_dir({}, base) for _ in range(2))
    assert one.path != two.path
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o700
    assert one.socket == one.path / "redis.sock"
    assert runtime_dirs.lock(one.path) is None
    one.discard()
    assert not one.path.exists()
    two.discard()
    two.close()  # a second call does nothing


def test_stale_folders_are_removed_and_locked_ones_are_kept(base: Path) -> None:
    locked = runtime_dirs.new_stack_dir({}, base)
    stale = base / "s-deadbeef"
    stale.mkdir()
    (stale / "worker.log").touch()
    (base / "something-else").mkdir()
    (base / "s-file").touch()
    new_dir = runtime_dirs.new_stack_dir({}, base)
    assert {path.name for path in base.iterdir()} == {
        locked.path.name,
        new_dir.path.name,
        "something-else",
        "s-file",
    }
    locked.discard()
    new_dir.discard()


def test_folder_removed_by_another_process_before_the_lock_is_created_again(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = runtime_dirs.lock, []

    def lock(path: Path) -> int | None:
        calls.append(path)
        if len(calls) == 1:
            path.rmdir()
        return real(path)

    monkeypatch.setattr(runtime_dirs, "lock", lock)
    made = runtime_dirs.new_stack_dir({}, base)
    assert made.path.exists()
    assert made.path != calls[0]
    made.discard()


def test_lock_of_a_replaced_folder_is_not_valid(base: Path) -> None:
    folder = base / "up"
    folder.mkdir()
    fd = runtime_dirs.open_folder(folder)
    assert fd is not None
    folder.rmdir()
    assert not runtime_dirs.is_at(fd, folder)
    folder.mkdir()
    assert runtime_dirs.try_lock(fd)
    assert not runtime_dirs.is_at(fd, folder)
    os.close(fd)


def test_file_system_without_locks_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runtime_dirs.fcntl, "flock", flock)
    for make in (
        lambda: runtime_dirs.new_stack_dir({}, base),
        lambda: runtime_dirs.claim_warm_dir({"DBT_RELAY_RUNTIME_DIR": str(base)}),
    ):
        with pytest.raises(RelayError, match=r"(?s)No locks available.*local disk"):
            make()


def test_claimed_warm_folder_is_empty_and_locked(base: Path) -> None:
    environ = {"DBT_RELAY_RUNTIME_DIR": str(base)}
    (base / "up" / "folder").mkdir(parents=True)
    (base / "up" / "stack.json").touch()
    claimed = runtime_dirs.claim_warm_dir(environ)
    assert claimed is not None
    assert list(claimed.path.iterdir()) == []
    assert runtime_dirs.claim_warm_dir(environ) is None
    claimed.discard()


def test_socket_of_a_long_path_is_in_another_folder(base: Path) -> None:
    long = base / ("x" * 120)
    made = runtime_dirs.new_stack_dir({"TMPDIR": str(base)}, long)
    assert made.path.parent == long
    assert made.socket.is_relative_to(base / f"dbt-relay-{os.geteuid()}")
    assert runtime_dirs.fits(made.socket)
    assert [made.path, made.socket.parent] == list(made.folders)
    made.discard()
    assert not made.socket.parent.exists()


def test_no_folder_short_enough_for_a_socket_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dirs, "MAX_SOCKET_PATH", 10)
    with pytest.raises(RelayError, match=r"(?s)too long for a unix socket.*shorter path"):
        runtime_dirs.new_stack_dir({"TMPDIR": str(base)}, base)
    assert list(base.iterdir()) == []
