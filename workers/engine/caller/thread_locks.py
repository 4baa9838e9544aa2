"""Replaces dbt's multiprocessing locks by thread locks.

dbt creates the locks of its manifests and adapters with `multiprocessing` (dbt.mp_context) but shares them among
threads only. Each pool process would start multiprocessing's resource tracker for them (6 MB), and leave semaphores
behind when it is killed. Must be imported before any other module of dbt: some create locks when they are imported.
"""

from __future__ import annotations

import threading
from multiprocessing.context import SpawnContext
from typing import Any

import dbt.mp_context


class ThreadLockContext(SpawnContext):
    """dbt's multiprocessing context, with thread locks."""

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's name
        """Return a thread lock."""
        return threading.Lock()

    def RLock(self) -> Any:  # noqa: N802 - multiprocessing's name
        """Return a reentrant thread lock."""
        return threading.RLock()


dbt.mp_context._MP_CONTEXT = ThreadLockContext()
