"""Workers with the stub engine: ``celery -A benchmarks.stub_worker worker``.

All else is real: Celery's pool, the ledger, lease renewal, progress, the merge of the results.
"""

from __future__ import annotations

from workers.app import app
from workers.engine.startup import prepare_import

prepare_import()

from benchmarks.stub_engine import StubEngine  # noqa: E402 - dbt is imported with it
from workers.runs import runtime  # noqa: E402

__all__ = ["app"]

runtime.Engine = StubEngine  # type: ignore[misc,assignment]
