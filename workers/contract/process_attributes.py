"""Umask and resource limits of the caller's process, which a dbt process would inherit.

They travel as ``DBT_RELAY_CALLER_*`` values of the caller's environment. Workers of older releases ignore them: they
remove every ``DBT_RELAY_*`` value before dbt sees the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

UMASK = "DBT_RELAY_CALLER_UMASK"
LIMITS = "DBT_RELAY_CALLER_LIMITS"

SOFT_LIMITS = ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_STACK")
"""Resource limits that are set for a step. The others would count what the worker process used for earlier runs."""


class ProcessAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """Umask and resource limits of a process.

    Attributes:
        umask: the file mode creation mask; None: the worker's own.
        limits: soft resource limits by name (`SOFT_LIMITS`); -1 is unlimited.
    """

    umask: int | None = None
    limits: Mapping[str, int] = {}


def encode_process_attributes() -> dict[str, str]:
    """Encode umask and resource limits of this process as values of an environment."""
    import resource  # not on Windows, which can only submit runs to a broker

    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in SOFT_LIMITS}
    return {UMASK: f"{_umask():04o}", LIMITS: json.dumps(limits)}


def _umask() -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^Umask:\s+([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1], 8)
    # elsewhere the umask can only be read by setting it; files created in between must not be readable by others
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def decode_process_attributes(env: Mapping[str, str]) -> ProcessAttributes:
    """Decode what `encode_process_attributes` added to an environment. Invalid values are ignored."""
    umask: int | None = None
    limits: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        umask = int(env.get(UMASK, ""), 8) & 0o777
    with contextlib.suppress(msgspec.DecodeError):
        limits = msgspec.json.decode(env.get(LIMITS, "{}"), type=dict[str, int])
    return ProcessAttributes(
        umask=umask, limits={name: limits[name] for name in SOFT_LIMITS if name in limits}
    )
