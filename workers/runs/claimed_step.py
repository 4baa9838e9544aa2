"""A claimed step, with everything that is needed to execute and record it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.ledger.records import Claim
from workers.runs.run import Run
from workers.runs.runtime import Runtime

Answer = dict[str, Any]
"""What a Celery task returns; Flower shows it."""


@dataclass(frozen=True)
class ClaimedStep:
    """One execution of a step.

    Attributes:
        began: seconds since the epoch, UTC.
    """

    runtime: Runtime
    run: Run
    claim: Claim
    began: float
