"""Secrets are in no log or answer of Flower, nor in a line or record where dbt masks them.

The project itself holds none: the database returns them, which no care of the project's author prevents.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from tests.support.flower import Flower, flower_beside
from tests.support.postgres_server import PostgresDatabase, PostgresServer
from tests.support.projects import ROOT, copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import EventRecorder, node, runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools

pytestmark = pytest.mark.postgres

API_KEY = "sk-live/4f7a!9c\"2b'e0"
"""With characters that JSON, Python and URLs escape."""

BROKER_PASSWORD = "br0ker-p4ssw0rd"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(password=BROKER_PASSWORD)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """Its functions and tables say what must not be said."""
    with postgres.database() as database:
        quoted = API_KEY.replace("'", "''")
        for name, secret in (("password", database.password), ("api_key", quoted)):
            database.query(f"create table {name}_vault as select '{secret}' as secret")
            database.query(
                f"create function leak_{name}() returns int language plpgsql as $$ begin "
                f"raise exception 'refused: %', '{secret}'; end $$"
            )
        yield database


@pytest.fixture(scope="module")
def pool(
    module_worker_pool: WorkerPools, database: PostgresDatabase, server: RedisServer
) -> Iterator[WorkerPool]:
    pool = module_worker_pool(2, env={**database.env, "DBT_ENV_SECRET_API_KEY": API_KEY}, server=server)
    yield pool
    pool.stop()  # before its server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its profile reads both secrets; its hook and its models repeat what the database says."""
    project = copy_project("trial", tmp_path_factory.mktemp("trial"))
    profiles = project / "profiles.yml"
    profiles.write_text(
        profiles.read_text() + "      application_name: \"{{ env_var('DBT_ENV_SECRET_API_KEY') }}\"\n"
    )
    config = project / "dbt_project.yml"
    config.write_text(config.read_text() + '\non-run-start: "{{ tell_all() }}"\n')
    (project / "macros" / "tell_all.sql").write_text(
        """
        {% macro tell_all() %}
            {% if execute %}
                {% for name in ['password', 'api_key'] %}
                    {% set secret = run_query('select secret from ' ~ name ~ '_vault').columns[0].values()[0] %}
                    {{ log('told by log: ' ~ secret, info=true) }}
                    {{ print('told by print: ' ~ secret) }}
                    {{ exceptions.warn('told by warn: ' ~ secret) }}
                {% endfor %}
            {% endif %}
            select 1
        {% endmacro %}
        """
    )
    folder = project / "models" / "leaking"
    folder.mkdir()
    (folder / "leaking_password.sql").write_text("select leak_password() as x")
    (folder / "leaking_api_key.sql").write_text("select leak_api_key() as x")
    (folder / "leaking_compiled.sql").write_text(
        "select '{{ run_query('select secret from password_vault').columns[0].values()[0] if execute }}'::integer as x"
    )
    return project


@pytest.fixture(scope="module")
def flower(pool: WorkerPool) -> Iterator[Flower]:
    with flower_beside(pool) as flower:
        yield flower


class Eavesdropper:
    """Everything that anybody sends to a server, while it listens."""

    def __init__(self, server: RedisServer) -> None:
        self.heard: list[str] = []
        self._server = server
        self._ready = threading.Event()
        self._end = f"the end {id(self)}"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _listen(self) -> None:
        with self._server.client() as client, client.monitor() as monitor:
            self._ready.set()
            with contextlib.suppress(redis.ConnectionError):  # a test that failed did not stop it
                for command in monitor.listen():
                    if self._end in command["command"]:
                        return
                    self.heard.append(command["command"])

    def stop(self) -> str:
        with self._server.client() as client:
            client.echo(self._end)
        self._thread.join(10)
        return "\n".join(self.heard)


def everything_in(client: redis.Redis) -> str:
    """Every key and every value of every type, unpacked where it is packed."""
    found: list[Any] = []
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    for key in client.scan_iter(count=1000):
        value: Any = readers[client.type(key)](key)  # type: ignore[index]
        if isinstance(value, bytes):
            with contextlib.suppress(zlib.error):
                value = zlib.decompress(value)
        found.append((key, value))
    return repr(found)


def forms(secret: str) -> set[str]:
    """How a secret may be written."""
    escaped = json.dumps(secret)[1:-1]
    return {secret, escaped, json.dumps(escaped)[1:-1], repr(secret)[1:-1], repr(repr(secret)[1:-1])[1:-1]}


def assert_silent(text: str, *secrets: str) -> None:
    for secret in secrets:
        for form in forms(secret):
            place = text.find(form)
            assert place < 0, text[max(0, place - 300) : place + 100]


def test_secrets_appear_only_where_dbt_itself_shows_them(
    pool: WorkerPool, project: Path, server: RedisServer, database: PostgresDatabase, flower: Flower
) -> None:
    env = {**database.env, "RELAY_TEST_TARGET": "postgres", "DBT_ENV_SECRET_API_KEY": API_KEY}
    recorder, eavesdropper = EventRecorder(), Eavesdropper(server)
    result = runner(server, project, env=env, on_event=recorder).execute_command(
        ["--debug", "build", "--select", "+int_raised", "leaking"], stream_output=False
    )
    sent = eavesdropper.stop()
    # the database did tell dbt the secrets, which masks them, and a model's compiled code has one
    assert result.return_code == 1
    assert result.stdout.count("told by log: *****") == 2
    assert result.stdout.count("told by print: *****") == 2
    for name in ("leaking_password", "leaking_api_key"):
        assert "refused: *****" in (node(result, name).message or "")
    compiled = node(result, "leaking_compiled")
    assert database.password in compiled.run_result["compiled_code"]

    told = (API_KEY, BROKER_PASSWORD)
    both = (database.password, *told)
    assert_silent(result.stdout, *both)
    assert_silent(repr(msgspec.to_builtins(result)), *told)
    assert_silent(repr([each.event for each in recorder.received]), *both)
    assert_silent(sent, *told)
    with server.client(decode_responses=False) as client:
        assert_silent(everything_in(client), *told)
    for each in result.nodes:
        assert_silent(repr((each.message, each.error and each.error.message, each.attempts)), *both)
    assert_silent(pool.log_path.read_text(), *both)
    wait_until(lambda: flower.finished(result.run_id, "relay.close"), 20, "the last task")
    for page in (
        "/api/tasks?limit=1000",
        "/api/workers?refresh=1",
        "/api/queues/length",
        "/tasks",
        "/broker",
    ):
        assert_silent(flower.read(page), *both)
    for name in ("run_results.json", "manifest.json"):
        assert_silent((project / "target" / name).read_text(), *told)


def test_password_of_the_profile_is_not_in_logs_or_flower(
    pool: WorkerPool, project: Path, server: RedisServer, database: PostgresDatabase, flower: Flower
) -> None:
    """dbt does not mask it: its lines and its results are as dbt leaves them."""
    copy = project.parent / "plain_password"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("target"))
    role, password = f"role_{database.dbname}", "profile-p4ssw0rd"
    database.query(f"create role {role} superuser login password '{password}'")
    database.query(f"update password_vault set secret = '{password}'")
    profiles = copy / "profiles.yml"
    profiles.write_text(re.sub("password: .*", f"password: {password}", profiles.read_text()))
    env = {**database.env, "PGUSER": role, "RELAY_TEST_TARGET": "postgres"}
    result = runner(server, copy, env=env).execute_command(
        ["build", "--select", "leaking_compiled"], stream_output=False
    )
    failed = node(result, "leaking_compiled")
    assert failed.message is not None
    assert failed.error is not None
    assert password in failed.message  # as in plain dbt
    assert password in result.stdout
    assert "*****" in failed.error.message
    assert_silent(failed.error.message + failed.error.detail, password)
    assert_silent(pool.log_path.read_text(), password)
    wait_until(lambda: flower.finished(result.run_id, "relay.close"), 20, "the last task")
    for page in ("/api/tasks?limit=1000", "/tasks"):
        assert_silent(flower.read(page), password)
    database.query(f"drop owned by {role} cascade; drop role {role}")


def test_error_of_invalid_profile_does_not_contain_its_secrets(
    pool: WorkerPool, project: Path, server: RedisServer
) -> None:
    """DuckDB repeats a setting that it does not understand."""
    copy = copy_project("trial", project.parent / "settings")
    profiles = copy / "profiles.yml"
    profiles.write_text(
        profiles.read_text().replace(
            "      schema: main\n",
            "      schema: main\n      settings: {threads: \"{{ env_var('DBT_ENV_SECRET_API_KEY') }}\"}\n",
        )
    )
    eavesdropper = Eavesdropper(server)
    result = runner(server, copy, env={"DBT_ENV_SECRET_API_KEY": API_KEY}).execute_command(
        ["run", "--select", "int_model_a"], stream_output=False
    )
    assert not result.success
    assert "*****" in result.stdout
    told = result.stdout + repr(msgspec.to_builtins(result)) + eavesdropper.stop()
    assert_silent(told + pool.log_path.read_text(), API_KEY, BROKER_PASSWORD)


def test_error_of_unreachable_server_does_not_contain_its_password(
    server: RedisServer, project: Path
) -> None:
    code = (
        "from producer import DbtRunner, RelayError\n"
        "try:\n"
        f"    DbtRunner({str(project)!r}, broker_url='redis://:{BROKER_PASSWORD}@127.0.0.1:1/0').execute_command(['ls'])\n"
        "except RelayError as error:\n"
        "    print(error, error.info)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert "127.0.0.1:1" in done.stdout, done.stderr
    assert_silent(done.stdout + done.stderr, BROKER_PASSWORD)
