"""Identifies a folder across processes and containers of one machine."""

from __future__ import annotations

import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def folder_identity(folder: str | os.PathLike[str]) -> str:
    """Return a text that no other folder has: boot id of the kernel, device and inode.

    Returns:
        An empty string where that is unknown (not Linux, or no such folder).
    """
    try:
        stat = os.stat(folder)
        return f"{_BOOT_ID.read_text().strip()}:{stat.st_dev}:{stat.st_ino}"
    except OSError:
        return ""
