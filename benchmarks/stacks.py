"""Starts dbt-relay for benchmarks: a private server and warm worker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.projects import Copy, environment, statuses
from producer.runner import DbtRunner
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPool
from workers.contract.results import DbtResult


class Stack:
    """A server and a worker."""

    def __init__(self, server: RedisServer, pool: WorkerPool) -> None:
        self.server, self.pool = server, pool

    def runner(self, project: Path, threads: int = 0) -> DbtRunner:
        """Return a runner on this stack. `threads` 0: as many nodes at once as the profile says."""
        return DbtRunner(project, threads=threads, broker_url=self.server.broker_url, environ=environment())

    def run(self, copy: Copy, *arguments: str, threads: int = 0) -> DbtResult:
        """Run a command and return its result.

        Raises:
            RuntimeError: the command failed.
        """
        return succeeded(self.runner(copy.folder, threads).execute_command(arguments, stream_output=False))


def succeeded(result: DbtResult) -> DbtResult:
    """Return the result if it is a success.

    Raises:
        RuntimeError: the command failed; with the end of dbt's output.
    """
    if not result.success:
        raise RuntimeError(f"{result.command} failed: {result.error}\n{result.stdout[-600:]}")
    return result


def statuses_of(result: DbtResult) -> dict[str, str]:
    """Status of each node, by unique id."""
    return statuses(result.run_results or {"results": []})


@contextlib.contextmanager
def stack(processes: int) -> Iterator[Stack]:
    """Yield a stack with a ready worker. It ends with the block."""
    server = RedisServer()
    try:
        server.start()
        pool = WorkerPool(server, processes, environment())
        try:
            yield Stack(server, pool.start())
        finally:
            pool.close()
    finally:
        server.close()
