"""Locks of dbt in a worker process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from workers.engine.startup import prepare_import
prepare_import()
import workers.engine.engine
import multiprocessing.resource_tracker
from types import SimpleNamespace
from dbt.adapters.duckdb import DuckDBAdapter
from dbt.contracts.graph.manifest import Manifest
from dbt.mp_context import get_mp_context

profile = SimpleNamespace(credentials=SimpleNamespace(disable_transactions=False))
lock = DuckDBAdapter.ConnectionManager(profile, get_mp_context()).lock
with lock, lock, Manifest()._lock:
    print(multiprocessing.resource_tracker._resource_tracker._fd)
"""


def test_locks_of_dbt_start_no_resource_tracker() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["None"], done.stdout
