"""Worker processes whose engine does nothing: ``celery -A benchmarks.stub_worker worker``.

All else is the worker's own: Celery's pool, the ledger, leases and beats, progress, the merge of the results.
"""

from __future__ import annotations

from workers.app import app
from workers.engine.startup import prepare_import

prepare_import()

from benchmarks.stub_engine import StubEngine  # noqa: E402 - dbt is imported with it
from workers.runs import runtime  # noqa: E402

__all__ = ["app"]

runtime.Engine = StubEngine  # type: ignore[misc,assignment]
