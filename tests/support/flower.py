"""Starts a real Flower for a pool of workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.processes import end_process, free_port, tail
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool


class Flower:
    """Client of Flower's API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def read(self, path: str) -> str:
        """The text of a page."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """The tasks of a run."""
        every: dict[str, dict[str, Any]] = json.loads(self.read("/api/tasks?limit=1000"))
        return [task for task in every.values() if run_id in str(task["args"])]

    def finished(self, run_id: str, name: str) -> list[dict[str, Any]]:
        """The finished tasks of a run with a given name."""
        return [
            task for task in self.tasks(run_id)
            if task["name"] == name and task["state"] in {"SUCCESS", "FAILURE"}
        ]  # fmt: skip


@contextmanager
def flower_beside(pool: WorkerPool) -> Iterator[Flower]:
    """Run ``celery -A workers.app flower`` on a free port of 127.0.0.1. It has seen the workers."""
    port = free_port()
    log = pool.directory / "flower.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", "workers.app", "flower", "--address=127.0.0.1",
                f"--port={port}",
            ],
            env={**pool.env, "FLOWER_UNAUTHENTICATED_API": "true"}, cwd=pool.directory,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    flower = Flower(port)

    def up() -> bool:
        assert process.poll() is None, tail(log)
        try:
            return bool(json.loads(flower.read("/api/workers")))
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_until(up, 40, lambda: f"Flower:\n{tail(log)}", interval=0.2)
        yield flower
    finally:
        end_process(process, signal.SIGTERM, 10)
