"""Clients of a relay: submit, watch, read, list and stop runs through Redis."""

from __future__ import annotations

from producer.client.relay_client import RelayClient
from producer.client.results import ConsoleLines, Record, no_such_run, result_of
from producer.client.summaries import UNREADABLE, RunSummary, WorkerInfo

__all__ = [
    "UNREADABLE",
    "ConsoleLines",
    "Record",
    "RelayClient",
    "RunSummary",
    "WorkerInfo",
    "no_such_run",
    "result_of",
]
