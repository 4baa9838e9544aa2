"""The file by which the caller of an embedded stack passes its environment to the workers (`messages.RunRequest`).

Its path comes from Redis. A worker reads and removes only what lies in its own stack's folder, so that a request
cannot make it read, or delete, another file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from workers.contract.environment import decode_environment
from workers.contract.errors import DbtUsageError
from workers.contract.settings import Settings

FOLDER = "env"
"""Below the stack's runtime folder (`producer.session`)."""

MAX_BYTES = 64 * 1024 * 1024


def read(path: str, settings: Settings) -> dict[str, str]:
    """The environment that a file holds.

    Raises:
        DbtUsageError: it lies elsewhere, is gone, or is not a file of this user with an environment in it.
    """
    place = _checked(path, settings)
    try:
        # no link, and no waiting for a named pipe
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                raise OSError("it is not a regular file of this user")  # noqa: TRY301
            return decode_environment(file.read(MAX_BYTES))
    except (OSError, ValueError) as error:
        raise DbtUsageError(f"the caller's environment cannot be read from {path}: {error}") from error


def remove(path: str, settings: Settings) -> None:
    """Remove the file of a run that has ended, if it is one of this worker's stack."""
    with contextlib.suppress(DbtUsageError, OSError):
        _checked(path, settings).unlink(missing_ok=True)


def _checked(path: str, settings: Settings) -> Path:
    folder = Path(settings.runtime_dir) / FOLDER
    place = Path(path)
    inside = bool(settings.runtime_dir) and place.name not in {"", "..", "."} and place.parent == folder
    if not inside:
        raise DbtUsageError(
            f"the caller's environment is said to be in {path}, which is not in the folder of this worker's stack "
            f"({folder if settings.runtime_dir else 'it belongs to none'}): only the stack's own commands send such "
            "files"
        )
    return place
