"""Whether two processes mean the same folder by a path, though perhaps in containers of their own."""

from __future__ import annotations

import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def folder_identity(folder: str | os.PathLike[str]) -> str:
    """What tells a folder apart from all others: the running kernel, device and inode.

    Empty where that cannot be told (no Linux, no such folder).
    """
    try:
        stat = os.stat(folder)
        return f"{_BOOT_ID.read_text().strip()}:{stat.st_dev}:{stat.st_ino}"
    except OSError:
        return ""
