"""Workers with the stub engine: ``celery -A benchmarks.stub_worker worker``.

All else is real: Celery's pool, the ledger, lease renewal, progress, the merge of the results.
"""

from __future__ import annotations

from benchmarks.stub_engine import StubEngine
from workers.app import app
from workers.runs import runtime

__all__ = ["app"]

runtime.Engine = StubEngine  # type: ignore[misc,assignment]
