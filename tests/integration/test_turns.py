"""Many runs with vars or an environment of their own at once: no process loads the same project again and again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresDatabase
from tests.support.redis_server import RedisServer
from tests.support.runs import client, submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool

PROJECT = """name: scenarios
version: "1.0"
config-version: 2
profile: scenarios
"""
PROFILE = """scenarios:
  target: dev
  outputs:
    dev:
      type: postgres
      host: "{{ env_var('PGHOST') }}"
      port: "{{ env_var('PGPORT') | as_number }}"
      user: "{{ env_var('PGUSER') }}"
      password: "{{ env_var('DBT_ENV_SECRET_PG_PASSWORD') }}"
      dbname: "{{ env_var('PGDATABASE') }}"
      schema: "{{ var('scenario') }}"
      threads: 4
"""
MODEL = 'select \'{{ var("scenario") }}\' as scenario, \'{{ env_var("RATE", "1") }}\' as rate'
RUNS, LAYERS = 12, (2, 2, 1)


def write_project(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "dbt_project.yml").write_text(PROJECT)
    (folder / "profiles.yml").write_text(PROFILE)
    for layer, width in enumerate(LAYERS):
        for number in range(width):
            above = f" from {{{{ ref('m{layer - 1}{number}') }}}}" if layer else ""
            (folder / "models" / f"m{layer}{number}.sql").write_text(MODEL + above)


@pytest.mark.postgres
def test_a_run_stays_in_the_process_that_loaded_its_project(
    tmp_path: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    postgres_database: PostgresDatabase,
) -> None:
    write_project(tmp_path)
    # every run waits for a worker, so that all of them begin at once
    runs = [
        submit(
            redis_server, tmp_path, ["run", "--vars", json.dumps({"scenario": f"s{number}"})],
            env={"RATE": str(number)} if number % 6 == 0 else {},
        )
        for number in range(RUNS)
    ]  # fmt: skip
    with redis_server.client() as redis_client:
        redis_client.config_resetstat()
    pool = worker_pool(n=2, env={**postgres_database.env, "DBT_RELAY_CONTEXTS": "4"})
    for number, run_id in enumerate(runs):
        result = client(redis_server).result(run_id, timeout=120)
        assert result.success, result.stdout[-2000:]
        assert len(result.nodes) == sum(LAYERS)
        rate = str(number) if number % 6 == 0 else "1"
        assert postgres_database.query(f"select * from s{number}.m20") == [(f"s{number}", rate)]
    assert "message lost" not in pool.log(lines=10_000)  # a run that ends calls the next one itself
    with redis_server.client() as redis_client:
        loads = redis_client.info("commandstats")["cmdstat_getex"]["calls"]
        assert not redis_client.exists("relay:turns", "relay:turns:line")
    # A run stays where it was planned, except the last ones, which have both processes: 1 or 2 loads on an idle machine.
    # If every step could go to either process, it would be one for each run.
    assert loads <= RUNS // 2


@pytest.mark.postgres
@pytest.mark.parametrize("end", ["kill a process", "kill a worker", "stop a worker"])
def test_runs_continue_elsewhere_while_others_wait_in_line(
    end: str,
    tmp_path: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    postgres_database: PostgresDatabase,
) -> None:
    """The process that ends was executing the steps of its run without messages."""
    write_project(tmp_path)
    runs = [
        submit(redis_server, tmp_path, ["run", "--vars", json.dumps({"scenario": f"s{number}"})])
        for number in range(RUNS)
    ]
    env = {**postgres_database.env, "DBT_RELAY_LEASE_SECONDS": "2"}
    ends, stays = (worker_pool(n=1, env=env) for _ in range(2))
    store = client(redis_server).store
    wait_until(lambda: len(store.active_runs()) < RUNS - 3, 60, "a few runs to end")
    assert store.active_runs()
    if end == "kill a process":
        os.kill(ends.children[0], signal.SIGKILL)
    elif end == "kill a worker":
        ends.kill()
    else:
        assert ends.terminate() == 0
    for run_id in runs:
        result = client(redis_server).result(run_id, timeout=120)
        assert result.success, result.stdout[-2000:]
        assert len(result.nodes) == sum(LAYERS)
    if end == "stop a worker":
        assert "message lost" not in stays.log(lines=10_000)
    with redis_server.client() as redis_client:
        assert not redis_client.exists("relay:turns", "relay:turns:line")
