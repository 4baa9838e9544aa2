"""A running embedded stack, as its guardian reports it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from producer.embedded.server import socket_of


@dataclasses.dataclass(frozen=True)
class StackInfo:
    """A running embedded stack.

    Attributes:
        broker_url: for Celery, ``redis+socket://…``.
        redis_url: for redis-py, ``unix://…``.
        runtime_dir: folder with logs (``worker.log``, ``server.log``, ``guardian.log``) and state; private to the user.
        pid: of the guardian; SIGTERM ends the stack.
        server: path of the server's binary.
        workers: number of worker processes.
        started_at: seconds since the epoch.
        version: release of dbt-relay that started it.
    """

    broker_url: str
    redis_url: str
    runtime_dir: Path
    pid: int
    server: str
    workers: int
    started_at: float
    version: str

    @property
    def socket(self) -> str:
        """Path of the server's unix socket."""
        return socket_of(self.redis_url)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StackInfo:
        """Decode the guardian's report or ``stack.json``. Raises TypeError or KeyError for anything else."""
        return cls(**{**data, "runtime_dir": Path(data["runtime_dir"])})
