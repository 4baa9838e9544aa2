"""Replaces dbt's multiprocessing locks by thread locks.

dbt creates the locks of its manifests and adapters with `multiprocessing` (dbt.mp_context) but shares them among
threads only. Each pool process would start multiprocessing's resource tracker for them (6 MB), and leave semaphores
behind when it is killed.
"""

from __future__ import annotations

import importlib
import sys
import threading
from multiprocessing.context import SpawnContext
from typing import Any

from workers.contract.log import log

_BINDS_LOCKS = "dbt.contracts.graph.manifest"
"""A module of dbt that binds the lock factory when it is imported."""


class ThreadLockContext(SpawnContext):
    """dbt's multiprocessing context, with thread locks."""

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's name
        """Return a thread lock."""
        return threading.Lock()

    def RLock(self) -> Any:  # noqa: N802 - multiprocessing's name
        """Return a reentrant thread lock."""
        return threading.RLock()


def install() -> None:
    """Make dbt use thread locks. Call this before dbt's manifest module is imported.

    Afterwards some locks stay multiprocessing locks. They work, at the cost above, and the worker logs it.
    """
    dbt: Any = importlib.import_module("dbt.mp_context")
    if isinstance(dbt._MP_CONTEXT, ThreadLockContext):
        return
    if _BINDS_LOCKS in sys.modules:
        log("dbt was imported before its locks were replaced: each process starts a resource tracker")
    dbt._MP_CONTEXT = ThreadLockContext()
