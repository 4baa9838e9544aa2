"""What a process used of memory, and what it may use: from Linux' own files; elsewhere little is known."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_NO_LIMIT = 1 << 60
"""Version 1 of cgroups writes "no limit" as a number near 2**63."""


def peak(pid: int, proc: Path = Path("/proc")) -> int:
    """The most that a process had resident so far (proc(5), VmHWM), bytes; 0 where that cannot be told."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", (proc / str(pid) / "status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 0


def limit(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """What all processes of this worker may use together, bytes: its container's limit (cgroups(7)), or the
    machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(proc, groups)])


def share(processes: int) -> int:
    """What each of so many processes may use, bytes, so that a tenth of it all is left for the rest."""
    return limit() * 9 // 10 // max(1, processes)


def _group_limits(proc: Path, groups: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            root, name = (
                (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            )
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                with contextlib.suppress(OSError, ValueError):  # "max", or not visible from here
                    if (found := int((folder / name).read_text())) < _NO_LIMIT:
                        yield found
                if folder == root:
                    break


def kills(proc: Path = Path("/proc")) -> int:
    """How many processes of this machine the kernel ended so far because memory ran out (``/proc/vmstat``)."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", (proc / "vmstat").read_text(), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def readable(size: int) -> str:
    """``3.9 GB``."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
