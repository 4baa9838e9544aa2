"""Runs the slow project in a background thread, for tests that disturb the run."""

from __future__ import annotations

import threading
from pathlib import Path

from producer.runner import DbtRunner
from workers.contract.events import STATE, Event
from workers.contract.results import DbtResult

SHORT_LEASES = {"DBT_RELAY_LEASE_SECONDS": "2", "DBT_RELAY_REAP_SECONDS": "0.3"}
"""Lease and reaper settings that are short enough for a test."""


class Background:
    """A run in a background thread, with its events so far."""

    def __init__(
        self, project: Path, broker: str, seconds: float = 1.5, args: tuple[str, ...] = ("run",)
    ) -> None:
        self.events: list[Event] = []
        self.result: DbtResult | None = None
        self._runner = DbtRunner(project, broker_url=broker, on_event=self.events.append)
        self._seconds, self._args = seconds, args
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.result = self._runner.execute_command(
            list(self._args), dbt_vars={"seconds": self._seconds}, stream_output=False
        )

    def has_line(self, text: str) -> bool:
        return any(text in event.text for event in self.events)

    def worker_of(self, node: str) -> int:
        """Process id of the worker process that executes a node now."""
        running = [
            event for event in self.events
            if event.kind == STATE and event.state == "running" and event.node.endswith(f".{node}")
        ]  # fmt: skip
        return int(running[-1].worker.rpartition(":")[2])

    def wait(self, timeout: float = 60) -> DbtResult:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the run did not end"
        assert self.result is not None
        return self.result


def assert_all_succeeded(result: DbtResult) -> None:
    """Every node of the slow project succeeded."""
    assert result.success, result.stdout[-2000:]
    assert [(node.name, node.status) for node in result.nodes if node.resource_type == "model"] != []
    assert {node.name: node.status for node in result.nodes} == dict.fromkeys(
        ("first", "left", "right", "last"), "success"
    )
