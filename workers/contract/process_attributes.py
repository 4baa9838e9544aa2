"""What a dbt process inherits from its caller beside arguments, working directory and environment.

It travels as further values of the environment that a caller sends. A worker of an older release
removes every ``DBT_RELAY_*`` value before dbt sees the environment, so it ignores what it does not know.
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
"""Resource limits that a step takes over. The others count what the warm process has used for earlier runs."""


class ProcessAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """Inherited attributes of a process that are neither arguments nor environment.

    Attributes:
        umask: the file mode creation mask, or None: the worker's own.
        limits: soft resource limits by name (`SOFT_LIMITS`); -1 is without a limit.
    """

    umask: int | None = None
    limits: Mapping[str, int] = {}


def encode_process_attributes() -> dict[str, str]:
    """Umask and resource limits of this process, as values of an environment."""
    import resource  # Windows has none, and may only submit to a broker

    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in SOFT_LIMITS}
    return {UMASK: f"{_umask():04o}", LIMITS: json.dumps(limits)}


def _umask() -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^Umask:\s+([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1], 8)
    # elsewhere it can only be read by setting it; a file made meanwhile must not be open to others
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def decode_process_attributes(env: Mapping[str, str]) -> ProcessAttributes:
    """What `encode_process_attributes` put into an environment; a value that cannot be read counts as not there."""
    umask: int | None = None
    limits: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        umask = int(env.get(UMASK, ""), 8) & 0o777
    with contextlib.suppress(msgspec.DecodeError):
        limits = msgspec.json.decode(env.get(LIMITS, "{}"), type=dict[str, int])
    return ProcessAttributes(
        umask=umask, limits={name: limits[name] for name in SOFT_LIMITS if name in limits}
    )
