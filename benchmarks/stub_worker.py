"""Worker processes whose engine does nothing: ``celery -A benchmarks.stub_worker worker``.

All else is the worker's own: Celery's pool, the ledger, leases and beats, progress, the merge of the results.
"""

from __future__ import annotations

from benchmarks.stub_engine import StubEngine
from workers.app import app
from workers.runs import runtime

__all__ = ["app"]

runtime.Engine = StubEngine  # type: ignore[misc,assignment]
