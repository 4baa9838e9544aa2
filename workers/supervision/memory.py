"""Memory use and memory limits of processes, from Linux' ``/proc`` and cgroups. Mostly unknown on other systems."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_NO_LIMIT = 1 << 60
"""Version 1 of cgroups represents "no limit" by a number near 2**63."""


def peak(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the peak resident memory of a process (proc(5), VmHWM) in bytes; 0 if unknown."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", (proc / str(pid) / "status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 0


def limit(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory limit of this worker in bytes: that of its container (cgroups(7)), or the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(proc, groups)])


def share(processes: int) -> int:
    """Return the bytes that each of `processes` processes may use. A tenth of the limit is left for other processes."""
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
    """Return how many processes of this machine the kernel has killed because memory ran out (``/proc/vmstat``)."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", (proc / "vmstat").read_text(), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def readable(size: int) -> str:
    """Format bytes, such as ``3.9 GB``."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
