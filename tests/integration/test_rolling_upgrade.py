"""Workers and producers of the last release and of this one on one Redis: nothing is lost while they are replaced."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.processes import without_coverage
from tests.support.projects import ROOT
from tests.support.redis_server import RedisServer
from tests.support.runs import Gate, client
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPools
from workers.contract.results import DbtResult

EARLIER = "f80b898008627ebcf28dd2108cdb919aa43bea29"
"""The commit that stands for the last release."""

SUBMIT = """
import os, pathlib, sys
try:
    from producer.dbt_cli.arguments import parse_invocation
except ImportError:  # the earlier release has another layout
    from producer.dbt_args import parse_invocation
from producer.session import Follower, Stack
from workers.contract.settings import Settings
url, project, *args = sys.argv[1:]
follower = Follower(Stack(broker_url=url), Settings(broker_url=url))
invocation = parse_invocation(args, environ=os.environ, cwd=pathlib.Path(project))
request, _ = follower.request(invocation, cwd=pathlib.Path(project), environ=os.environ)
print(follower.client.submit(request))
"""
READ = """
import sys, msgspec
from producer.client import RelayClient
client = RelayClient(sys.argv[1])
client.runs(), client.workers(), client.refused()
print(msgspec.json.encode(client.result(sys.argv[2], timeout=90).run_results).decode())
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the last release."""
    packed = subprocess.run(
        ["git", "archive", EARLIER, "producer", "workers"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        reason = f"this is no checkout with the commit {EARLIER[:7]}: {packed.stderr.decode()}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def ask(code: Path, program: str, *args: str) -> str:
    """What a producer of one of both releases prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env={**without_coverage(), "PYTHONPATH": str(code)}, cwd=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def statuses(results: str) -> dict[str, str]:
    return {each["unique_id"]: each["status"] for each in json.loads(results)["results"]}


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_a_worker_is_replaced_while_it_executes_a_node(
    direction: str,
    earlier: Path,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    worker_pool: WorkerPools,
    copy_project: Callable[..., Path],
    duckdb_file: Path,
    tmp_path: Path,
) -> None:
    """The run is submitted by the one release, begun by a worker of it, and ended by a worker of the other."""
    first, second = (earlier, ROOT) if direction == "upgrade" else (ROOT, earlier)
    project, gate = copy_project("trial"), Gate(tmp_path / "gate")
    going = worker_pool(1, {"PYTHONPATH": str(first), "DBT_RELAY_DRAIN_SECONDS": "0.5"})
    words = ["run", "--select", "gated+", "--vars", f"{{gate: {gate.path}}}"]
    run_id = ask(first, SUBMIT, redis_server.broker_url, str(project), *words)
    for event in client(redis_server).watch(run_id, timeout=90):
        if "before the gate" in event.text:
            break
    worker_pool(1, {"PYTHONPATH": str(second)})
    assert going.terminate() == 0
    wait_until(lambda: "gated" in json.dumps(held(redis_client)), 60, "the other release to go on")
    gate.open()
    for reader in (first, second):
        found = statuses(ask(reader, READ, redis_server.broker_url, run_id))
        assert set(found.values()) == {"success"}
        assert {"model.trial.gated", "model.trial.after_gated"} <= found.keys()


def held(client: redis.Redis) -> list[str]:
    found: list[str] = client.zrange("relay:leases", 0, -1)  # type: ignore[assignment]
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("producer", ["earlier", "this"])
def test_both_releases_execute_nodes_of_one_run(
    producer: str,
    earlier: Path,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    worker_pool: WorkerPools,
    copy_project: Callable[..., Path],
    postgres_database: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RELAY_TEST_TARGET", "postgres")
    code = earlier if producer == "earlier" else ROOT
    project = copy_project("small")
    pools = [worker_pool(1, {"PYTHONPATH": str(each)}) for each in (earlier, ROOT)]
    run_id = ask(code, SUBMIT, redis_server.broker_url, str(project), "build")
    result: DbtResult = client(redis_server).result(run_id, timeout=90)
    assert result.success, (result.stdout, *(pool.log() for pool in pools))
    assert set(statuses(ask(earlier, READ, redis_server.broker_url, run_id)).values()) <= {"success", "pass"}
