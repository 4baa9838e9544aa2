"""A Celery app in place of the real worker, for tests of processes."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import unquote, urlsplit

import redis
from celery import Celery
from celery.signals import worker_process_init, worker_ready

URL = os.environ["DBT_RELAY_BROKER_URL"]

app = Celery("stand-in", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, task_default_queue="dbt-relay")


def _redis() -> redis.Redis:
    return redis.Redis(unix_socket_path=unquote(urlsplit(URL).path))


@worker_process_init.connect
def _note_pid(**_: object) -> None:
    _redis().rpush("pool-pids", os.getpid())


@worker_ready.connect
def _register(**_: object) -> None:
    _redis().hset("relay:workers", f"{socket.gethostname()}:{os.getpid()}", "{}")


@app.task
def facts(*names: str) -> dict[str, object]:
    """Return the task's pid, working directory and some environment variables."""
    return {"pid": os.getpid(), "cwd": os.getcwd(), "env": {name: os.environ.get(name) for name in names}}


@app.task
def busy(seconds: float) -> None:
    """Block the process, as a query does."""
    _redis().set("busy", os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)
