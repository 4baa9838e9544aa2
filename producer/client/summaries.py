"""Runs and workers as lists show them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from producer.dbt_cli.vars import shown_args
from workers.contract.messages import RunRequest
from workers.contract.redis_values import number_of

UNREADABLE = "unreadable"
"""The state shown for a run whose request or result this release cannot read."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list.

    Attributes:
        command: dbt's arguments, secrets in ``--vars`` masked.
        submitted_at: seconds since the epoch, UTC.
        done: nodes that have ended.
        total: nodes of the run.
    """

    run_id: str
    state: str
    command: str
    submitted_at: float
    done: int
    total: int

    @classmethod
    def of(cls, request: RunRequest, facts: Mapping[str, str]) -> RunSummary:
        """Build the summary from a run's request and the fields of its hash in Redis."""
        return cls(
            run_id=request.run_id, state=facts.get("state", ""), command=" ".join(shown_args(request.args)),
            submitted_at=request.submitted_at, done=int(number_of(facts.get("done"))),
            total=int(number_of(facts.get("total"))),
        )  # fmt: skip


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as it registered itself in Redis. Times are seconds since the epoch, UTC.

    Attributes:
        processes: number of its pool processes.
        version: its release of dbt-relay.
        since: when it started.
        seen: when it last renewed its registration.
        name: Celery's name of it, ``celery@host``.
        dbt: its release of dbt-core; empty where the worker does not publish it.
        adapters: its adapters by name, each with its release.
        draining: whether it is stopping and accepts no further steps.
        children: process ids of its pool.
    """

    host: str
    pid: int
    processes: int
    version: str
    queue: str
    since: float
    seen: float
    name: str = ""
    draining: bool = False
    children: tuple[int, ...] = ()
    dbt: str = ""
    adapters: dict[str, str] = {}

    @property
    def place(self) -> str:
        """``host:pid``, with Celery's name of the worker."""
        return f"{self.host}:{self.pid}" + (f" ({self.name})" if self.name else "")

    @property
    def installed(self) -> str:
        """Its releases of dbt: ``dbt-core 1.11.16, duckdb 1.11.1``."""
        if not self.dbt:
            return "dbt release unknown"
        return ", ".join(
            [f"dbt-core {self.dbt}", *(f"{name} {release}" for name, release in self.adapters.items())]
        )
