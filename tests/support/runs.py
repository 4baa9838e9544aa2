"""Helpers to submit runs and inspect their results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_invocation
from producer.runner import DbtRunner
from producer.session import Follower, Stack
from tests.support.redis_server import RedisServer
from workers.contract.events import LINE, Event
from workers.contract.messages import Limits, RetryPolicy
from workers.contract.results import DbtResult, NodeResult
from workers.contract.settings import Settings

SHORT_RETRIES = RetryPolicy(max_attempts=8, base_delay=0.4, max_delay=1.5, jitter=False)
"""Retries with delays that are short enough for a test."""


class ReceivedEvent(msgspec.Struct):
    """An event, and the time at which its caller received it (seconds since the epoch)."""

    event: Event
    at: float


class EventRecorder:
    """An `on_event` callback that records events and their times."""

    def __init__(self) -> None:
        self.received: list[ReceivedEvent] = []

    def __call__(self, event: Event) -> None:
        self.received.append(ReceivedEvent(event, time.time()))

    def has(self, node: str, state: str) -> bool:
        """Whether there was an event that `node` is in `state`."""
        return any((each.event.node, each.event.state) == (node, state) for each in self.received)

    @property
    def lines(self) -> list[ReceivedEvent]:
        """The events that are console lines."""
        return [each for each in self.received if each.event.kind == LINE]


def runner(
    server: RedisServer,
    project: Path,
    *,
    env: Mapping[str, str] | None = None,
    threads: int = 4,
    **options: Any,
) -> DbtRunner:
    """A DbtRunner on a project and a server, with `env` on top of the test's environment."""
    environ = None if env is None else {**os.environ, **env}
    return DbtRunner(project, threads=threads, broker_url=server.broker_url, environ=environ, **options)


def client(server: RedisServer) -> RelayClient:
    """A client of a server."""
    return RelayClient(server.broker_url)


def submit(
    server: RedisServer,
    project: Path,
    args: list[str],
    env: Mapping[str, str] | None = None,
    retry: RetryPolicy | None = None,
    limits: Limits | None = None,
) -> str:
    """Submit a command without waiting. Returns the run id."""
    environ = {**os.environ, **(env or {})}
    follower = Follower(Stack(broker_url=server.broker_url), Settings(broker_url=server.broker_url))
    invocation = parse_invocation(args, environ=environ, cwd=project)
    request, _ = follower.request(invocation, cwd=project, environ=environ, retry=retry, limits=limits)
    return follower.client.submit(request)


def node(result: DbtResult, name: str) -> NodeResult:
    """The result of one node, by its name."""
    found = [each for each in result.nodes if each.name == name]
    assert len(found) == 1, [each.name for each in result.nodes]
    return found[0]


@contextmanager
def duckdb_locked_elsewhere(path: Path) -> Iterator[Callable[[], None]]:
    """Open a DuckDB file for writing in another process, until the yielded function is called."""
    import subprocess
    import sys

    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read();"
        "c.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"

    def release() -> None:
        assert process.stdin is not None
        if not process.stdin.closed:
            process.stdin.close()
        process.wait(10)

    try:
        yield release
    finally:
        release()
        process.stdout.close()


class Gate:
    """A named pipe for which the model ``gated`` waits on DuckDB. Pass its path as the var ``gate``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Let the model continue. Returns when it has read from the pipe."""
        self.path.write_text("open\n")
