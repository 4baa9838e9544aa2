"""Embedded stacks with real processes, which a test finds by a mark in their environment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
import redis

from producer.embedded.stack import EmbeddedStack, worker_command
from tests.support.processes import short_directory
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "integration"
CALLER = HERE / "support_embedded_caller.py"
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
STAND_IN = [word.replace("workers.app", "support_embedded_app") for word in worker_command(2)]


class World:
    """An environment for one test, whose mark identifies all processes that are started in it."""

    def __init__(self) -> None:
        self.base = short_directory("relay-emb-")
        self.mark = uuid.uuid4().hex
        self.env = {
            **os.environ,
            "DBT_RELAY_RUNTIME_DIR": str(self.base),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
            "RELAY_TEST_MARK": self.mark,
        }
        self.callers: list[subprocess.Popen[bytes]] = []

    def processes(self) -> list[psutil.Process]:
        """All running processes of the test."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            # The server overwrites its environment with its title, which names its socket.
            ours = process.environ().get("RELAY_TEST_MARK") == self.mark or str(self.base) in str(
                process.cmdline()
            )
            return ours and process.pid != os.getpid()
        return False

    def named(self, word: str) -> list[psutil.Process]:
        """The processes with `word` in their command line."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it may be ending
                found += [process] if word in " ".join(process.cmdline()) else []
        return found

    def one(self, word: str) -> psutil.Process:
        """Wait for a process with `word` in its command line: a fork has it only after its exec."""
        wait_until(lambda: self.named(word), 30, word)
        return self.named(word)[0]

    def assert_nothing_left(self, within: float = 0.0) -> None:
        """Assert that no process or folder of a stack is left after `within` seconds."""

        def left() -> str:
            folders = [path.name for path in self.base.iterdir()]
            return f"{[(p.pid, p.cmdline()) for p in self.processes()]} {folders}"

        wait_until(
            lambda: not self.processes() and not list(self.base.iterdir()),
            within,
            lambda: f"the end of {left()}",
        )

    def call(self, mode: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """Start the caller program. Returns it with its first line of output."""
        process = subprocess.Popen(
            [sys.executable, str(CALLER), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            start_new_session=True,
        )
        self.callers.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1].decode()
        return process, json.loads(line)

    def stack(self, **options: Any) -> EmbeddedStack:
        """A stack of the test's process."""
        return EmbeddedStack(environ=self.env, **{"workers": 1, "command": FOREVER, **options})

    def close(self) -> None:
        """Remove processes and folders that a failed test left."""
        for left in self.processes():  # first, because a fork of a caller keeps its pipes open
            left.kill()
        for process in self.callers:
            process.kill()
            process.communicate()
        for path in self.base.iterdir():
            subprocess.run(["rm", "-rf", str(path)], check=True)
        self.base.rmdir()


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def send_task(info_url: str, broker_url: str, name: str, *args: object) -> Any:
    """Send a task to the stand-in worker. Returns its AsyncResult."""
    from celery import Celery

    app = Celery(broker=broker_url, backend=broker_url)
    return app.send_task(f"support_embedded_app.{name}", args, queue="dbt-relay")


def start_busy(stack: EmbeddedStack) -> int:
    """Start a task that blocks one pool process. Returns its pid."""
    info = stack.start()
    stack.wait_ready(60)
    send_task(info.redis_url, info.broker_url, "busy", 60)
    with client(info.redis_url) as server:
        return int(wait_until(lambda: server.get("busy"), 20, "a busy pool process"))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
