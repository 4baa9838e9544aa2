"""Locks of threads where dbt asks for locks of processes.

dbt makes the locks of its manifests and adapters with `multiprocessing` (dbt.mp_context) and shares them among
threads alone. For them each process of a worker would start another one (multiprocessing.resource_tracker, 6 MB),
and leave semaphores behind when it is killed. Imported before any other module of dbt: some ask for the factory
of their locks when they are imported.
"""

from __future__ import annotations

import threading
from multiprocessing.context import SpawnContext
from typing import Any

import dbt.mp_context


class Threads(SpawnContext):
    """As dbt's, but for the locks."""

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's
        """Of threads."""
        return threading.Lock()

    def RLock(self) -> Any:  # noqa: N802 - multiprocessing's
        """Of threads."""
        return threading.RLock()


dbt.mp_context._MP_CONTEXT = Threads()
