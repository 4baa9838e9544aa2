"""Private runtime folders of embedded stacks: sockets, logs, state and locks.

Layout; everything belongs to the user, and only the user has access::

    <base>/up/           the warm stack of ``dbt-relay up``: stack.json, redis.sock, *.log
    <base>/up.failed     why the last warm stack failed
    <base>/s-<random>/   one for each stack that ends with its caller

The guardian of a stack holds a flock on its folder. The kernel releases it when the guardian dies, so
a folder that can be locked is unused, and no pid file is needed. systemd-tmpfiles leaves locked
folders alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from producer.embedded.errors import setup_error

if TYPE_CHECKING:
    from workers.contract.errors import RelayError

MAX_SOCKET_PATH = 103
"""Bytes. ``sun_path`` holds 108 with its NUL on Linux, 104 on macOS."""

SOCKET_NAME = "redis.sock"
_TMP = "/tmp"  # noqa: S108 - `check_private` checks folders in it
OVERRIDE = "DBT_RELAY_RUNTIME_DIR"
_FIX = f"Set {OVERRIDE} to a folder on a local disk that belongs to you and that only you can write."


@dataclass(frozen=True)
class StackDir:
    """The locked folders of one stack.

    Attributes:
        path: folder of logs and ``stack.json``.
        socket: path of the server's socket, short enough for the kernel; in `path` where that is short.
        folders: all folders, `path` first; removed when the stack ends.
        locks: file descriptors that hold the locks.
    """

    path: Path
    socket: Path
    folders: tuple[Path, ...]
    locks: tuple[int, ...]

    def close(self) -> None:
        """Close this process' lock descriptors. A guardian that inherited them keeps the locks."""
        for lock in self.locks:
            with suppress(OSError):
                os.close(lock)

    def discard(self) -> None:
        """Remove the folders, when no guardian was started in them."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        self.close()


def short_bases(environ: Mapping[str, str]) -> Iterator[Path]:
    """Candidates for the base folder, best first.

    The temporary folder is first because ``XDG_RUNTIME_DIR`` is removed when the user logs out, even
    while a stack is running there.
    """
    name = f"dbt-relay-{os.geteuid()}"
    yield Path(environ.get("TMPDIR") or _TMP).absolute() / name
    if environ.get("XDG_RUNTIME_DIR"):
        yield Path(environ["XDG_RUNTIME_DIR"]).absolute() / "dbt-relay"
    yield Path(_TMP) / name


def base_dir(environ: Mapping[str, str]) -> Path:
    """This user's base folder, created if missing: ``DBT_RELAY_RUNTIME_DIR``, or the first usable of `short_bases`.

    Raises:
        RelayError: no candidate is a private folder.
    """
    refused: list[str] = []
    for path in _bases(environ):
        try:
            return check_private(path)
        except OSError as error:  # noqa: PERF203 - three at most
            refused.append(f"{path}: {_reason(error)}")
    raise setup_error(
        "runtime_dir_unusable", f"No private folder for the embedded stack ({'; '.join(refused)}).", _FIX
    )


def existing_base(environ: Mapping[str, str]) -> Path | None:
    """As `base_dir`, without creating it. None when it does not exist or no candidate is private."""
    for path in _bases(environ):
        with suppress(OSError):
            if not path.exists():
                return None  # `base_dir` would create it here
            return check_private(path)
    return None


def _bases(environ: Mapping[str, str]) -> Iterator[Path]:
    override = environ.get(OVERRIDE)
    if override:
        yield Path(override).expanduser().resolve()
    else:
        yield from short_bases(environ)


def check_private(path: Path) -> Path:
    """Create `path` (mode 0700) if missing. Raises OSError unless the user owns it and no other user can write."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder_stat = os.lstat(path)
    if not stat.S_ISDIR(folder_stat.st_mode):
        raise NotADirectoryError("is not a folder, or is a symbolic link")
    if folder_stat.st_uid != os.geteuid():
        raise PermissionError("belongs to another user")
    if folder_stat.st_mode & 0o022:
        raise PermissionError("other users may write there")
    return path


def open_folder(path: Path) -> int | None:
    """Open a folder for `try_lock`. Returns its file descriptor, or None when there is no such folder."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def try_lock(fd: int) -> bool:
    """Try to lock a folder; whether it succeeded. Raises OSError where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: Path) -> bool:
    """Whether `path` is still the folder open as `fd`: a stack removes its folder when it ends."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def lock(path: Path) -> int | None:
    """Lock the folder `path`. Returns the file descriptor, or None if it is locked or does not exist.

    Raises:
        OSError: the file system has no locks.
    """
    fd = open_folder(path)
    if fd is None:
        return None
    held = False
    try:
        held = try_lock(fd) and is_at(fd, path)
    finally:
        if not held:
            os.close(fd)
    return fd if held else None


def sweep_stale(base: Path) -> None:
    """Remove folders of stacks whose guardian and sweeper were killed."""
    for path in base.glob("s-*"):
        with suppress(OSError):
            fd = lock(path)
            if fd is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(fd)


def _make_stack_folder(base: Path) -> tuple[Path, int]:
    sweep_stale(base)
    while True:
        path = base / f"s-{os.urandom(4).hex()}"
        path.mkdir(mode=0o700)
        fd = lock(path)
        if fd is not None:  # else another process removed it as stale
            return path, fd


def fits(socket: Path) -> bool:
    """Whether `socket` is short enough for the path of a unix socket."""
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH


def _with_socket(path: Path, fd: int, environ: Mapping[str, str]) -> StackDir:
    socket = path / SOCKET_NAME
    if fits(socket):
        return StackDir(path, socket, (path,), (fd,))
    for base in short_bases(environ):
        with suppress(OSError):
            if fits(base / "s-01234567" / SOCKET_NAME):
                short, short_fd = _make_stack_folder(check_private(base))
                return StackDir(path, short / SOCKET_NAME, (path, short), (fd, short_fd))
    shutil.rmtree(path, ignore_errors=True)
    os.close(fd)
    raise setup_error(
        "runtime_dir_too_long",
        f"{socket} is too long for a unix socket ({MAX_SOCKET_PATH} bytes), and no shorter folder can be used.",
        f"Set {OVERRIDE} to a shorter path.",
    )


def new_stack_dir(environ: Mapping[str, str], base: Path | None = None) -> StackDir:
    """Create folders for a stack that ends with its caller. Raises RelayError where that is not possible."""
    base = base_dir(environ) if base is None else base.absolute()
    try:
        path, fd = _make_stack_folder(check_private(base))
    except OSError as error:
        raise _unusable(base, error) from None
    return _with_socket(path, fd, environ)


def warm_dir(base: Path) -> Path:
    """Folder of the warm stack."""
    return base / "up"


def failure_file(base: Path) -> Path:
    """File that says why the last warm stack failed."""
    return base / "up.failed"


def claim_warm_dir(environ: Mapping[str, str]) -> StackDir | None:
    """Create and lock the folders of the user's warm stack; None while another process has the lock."""
    path = warm_dir(base_dir(environ))
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        fd = lock(path)
        if fd is None:
            return None
        empty(path)
    except OSError as error:
        raise _unusable(path, error) from None
    return _with_socket(path, fd, environ)


def empty(path: Path) -> None:
    """Remove what a stack that was killed left in a folder. The caller holds its lock."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _unusable(path: Path, error: OSError) -> RelayError:
    message = f"The folder {path} cannot be used for the embedded stack: {_reason(error)}."
    return setup_error("runtime_dir_unusable", message, _FIX)
