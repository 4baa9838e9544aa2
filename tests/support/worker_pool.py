"""Starts real Celery workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import psutil
import redis

from tests.support.processes import end_process, kill_group, short_directory, tail, without_coverage
from tests.support.projects import ROOT
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from workers.contract.keys import Keys

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


class WorkerPool:
    """``celery -A workers.app worker`` with `processes` children, as an operator would start it.

    Args:
        server: its broker.
        processes: number of pool processes, which execute nodes.
        env: variables added to the test's environment at the start of the pool (which includes those of
            `postgres_database` and `duckdb_file`); None as a value removes a variable.
        broker: another URL than that of the server's unix socket.
        arguments: more arguments of ``celery worker``.
        cwd: working directory.
        coverage: whether coverage is measured in its processes; see `without_coverage`.
        app: module of its Celery app.
    """

    _count = 0

    def __init__(
        self,
        server: RedisServer,
        processes: int = 2,
        env: Mapping[str, str | None] | None = None,
        broker: str | None = None,
        arguments: tuple[str, ...] = (),
        cwd: Path | None = None,
        coverage: bool = False,
        app: str = "workers.app",
    ) -> None:
        WorkerPool._count += 1
        self.name = f"pool{WorkerPool._count}"
        self.server = server
        self.processes = processes
        self.broker = broker or server.broker_url
        self.directory = short_directory("relay-worker-")
        self.log_path = self.directory / "worker.log"
        changes = {
            "DBT_RELAY_BROKER_URL": self.broker,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        merged = {
            **(os.environ if coverage else without_coverage()),
            **{name: value for name, value in changes.items() if value is not None},
        }
        self.env = {name: value for name, value in merged.items() if changes.get(name, "") is not None}
        self.prefix = self.env.get("DBT_RELAY_NAMESPACE", "relay")
        self.command = [
            sys.executable, "-m", "celery", "-A", app, "worker",
            "--concurrency", str(processes), "--hostname", f"{self.name}@%h", "--loglevel", "INFO", *arguments,
        ]  # fmt: skip
        self.cwd = cwd or self.directory
        self._process: subprocess.Popen[bytes] | None = None

    # life

    def start(self, *, wait: bool = True) -> WorkerPool:
        """Start the worker; with `wait`, return when it has registered."""
        assert not self.alive, "already started"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=self.env, cwd=self.cwd, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until the worker has registered: its pool processes are running and it consumes the queue.

        Raises:
            RuntimeError: the worker ended. Its log is in the message.
        """
        with self.server.client() as client:
            wait_until(
                lambda: self._registered(client),
                timeout,
                lambda: f"{self.name} to register; its log:\n{self.log()}",
                interval=0.1,
            )

    def _registered(self, client: redis.Redis) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self.log()}")
        workers = client.hkeys(Keys(self.prefix).workers())
        return any(str(name).endswith(f":{self.pid}") for name in workers)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of Celery's main process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """Process ids of the pool processes."""
        if not self.alive:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """Warm shutdown: SIGTERM to the main process. Returns the exit code."""
        assert self._process is not None, "not started"
        return end_process(self._process, signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Send SIGKILL to the main process and all pool processes at once, as when a host dies."""
        if self._process is not None:
            kill_group(self._process)

    def stop(self) -> None:
        """Stop the worker with a warm shutdown, then kill all its remaining processes."""
        if self._process is not None:
            end_process(self._process, signal.SIGTERM, STOP_TIMEOUT)
            kill_group(self._process)
            self._process = None

    def close(self) -> None:
        """Stop the worker and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self, lines: int = 80) -> str:
        """The last lines of the worker's log."""
        return tail(self.log_path, lines)


class WorkerPools:
    """Starts pools on one server and closes them all. Value of the ``worker_pool`` fixture."""

    live: ClassVar[list[WorkerPool]] = []
    """All open pools of this process. Their logs are shown with a failed test."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self._pools: list[WorkerPool] = []

    def __call__(
        self,
        n: int = 2,
        env: Mapping[str, str | None] | None = None,
        broker: str | None = None,
        *,
        arguments: tuple[str, ...] = (),
        cwd: Path | None = None,
        server: RedisServer | None = None,
        wait: bool = True,
        coverage: bool = False,
    ) -> WorkerPool:
        """Start a pool of `n` processes. See `WorkerPool`."""
        pool = WorkerPool(server or self.server, n, env, broker, arguments, cwd, coverage)
        self._pools.append(pool)
        WorkerPools.live.append(pool)
        return pool.start(wait=wait)

    def close(self) -> None:
        """Close every pool that this object started."""
        for pool in self._pools:
            pool.close()
            WorkerPools.live.remove(pool)
        self._pools.clear()

    @classmethod
    @contextlib.contextmanager
    def on(cls, server: RedisServer) -> Iterator[WorkerPools]:
        """Yield `WorkerPools` that are closed at the end of the block."""
        pools = cls(server)
        try:
            yield pools
        finally:
            pools.close()
