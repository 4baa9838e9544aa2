"""Unusable broker URLs, and TLS: commands fail within seconds and say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer.client import RelayClient
from tests.support.processes import without_coverage
from tests.support.projects import ROOT
from tests.support.redis_server import RedisServer
from tests.support.tls import tls_in_front_of
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPools
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest

COMMANDS = (["run"], ["status"], ["runs"], ["worker", "-c", "1"], ["flower", "--port=0"])
PASSWORD = "planted-passw0rd"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(tcp=True, password=PASSWORD)
    server.start()
    yield server
    server.close()


def said_by(command: list[str], url: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dbt-relay")), *command],
        env={**without_coverage(), "PYTHONPATH": str(ROOT), "DBT_RELAY_BROKER_URL": url},
        cwd=ROOT / "dbt", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


REFUSED = {
    "no scheme": ("127.0.0.1:6379", "does not begin with redis://"),
    "a web address": ("http://127.0.0.1", "not a scheme of Redis"),
    "no password": ("redis://127.0.0.1:{port}/0", "refuses the login"),
    "a wrong password": ("redis://:wrong@127.0.0.1:{port}/0", "refuses the login"),
    "TLS on a port without": (f"rediss://:{PASSWORD}@127.0.0.1:{{port}}/0", "does not speak TLS"),
    "an unknown authority": (f"rediss://:{PASSWORD}@127.0.0.1:{{tls}}/0", "cannot be verified"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_command_explains_an_unusable_broker_url(
    case: str, server: RedisServer, tmp_path: Path
) -> None:
    form, reason = REFUSED[case]
    with tls_in_front_of(server.port, tmp_path) as (tls, _):
        url = form.format(port=server.port, tls=tls)
        for command in COMMANDS:
            code, said = said_by(command, url)
            assert code == 2, said
            assert reason in said
            assert "Traceback" not in said
            assert PASSWORD not in said


def test_a_run_over_tls(
    server: RedisServer, tmp_path: Path, copy_project: Callable[..., Path], worker_pool: WorkerPools
) -> None:
    project = copy_project("small")
    with tls_in_front_of(server.port, tmp_path) as (port, authority):
        url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={authority}"
        pool = worker_pool(1, broker=url, server=server)
        relay, run_id = RelayClient(url), new_run_id()
        relay.submit(
            RunRequest(run_id=run_id, args=("ls",), command="ls", cwd=str(project), project_dir=str(project))
        )
        result = relay.result(run_id, timeout=60)
        assert result.success, result.stdout
        code, said = said_by(["drain", "--all"], url)
        assert code == 0, said
        pool.stop()


def test_celery_refuses_unverified_certificate(
    server: RedisServer, tmp_path: Path, worker_pool: WorkerPools
) -> None:
    """kombu's default for rediss:// is to verify nothing."""
    server.flush()
    with tls_in_front_of(server.port, tmp_path) as (port, _):
        pool = worker_pool(1, broker=f"rediss://:{PASSWORD}@127.0.0.1:{port}/0", server=server, wait=False)
        wait_until(lambda: "certificate verify failed" in pool.log().lower(), 60, pool.log)
        with server.client() as client:
            assert not client.keys("*")
        pool.kill()
