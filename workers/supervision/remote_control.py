"""Commands of Celery's remote control that dbt-relay adds."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery.worker.control import control_command

from workers.app import settings
from workers.contract.keys import CONTROL_DRAIN
from workers.supervision.drain import drain


@control_command(name=CONTROL_DRAIN)  # type: ignore[untyped-decorator]
def drain_worker(_state: Any, grace: float | None = None, **_: Any) -> dict[str, Any]:
    """Drain this worker, as SIGTERM does. The worker sends its answer before it leaves its event loop.

    Args:
        grace: seconds for which steps may continue; None: ``DBT_RELAY_DRAIN_SECONDS`` of the worker.
    """
    if isinstance(grace, (int, float)) and grace >= 0:
        seconds = float(grace)
    elif grace is None:
        seconds = settings.drain_seconds
    else:
        return {"error": f"grace must be a number of seconds, not {grace!r}"}
    drain(seconds)
    os.kill(os.getpid(), signal.SIGTERM)
    return {"ok": seconds}
