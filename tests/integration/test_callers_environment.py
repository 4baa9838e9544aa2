"""Environment values of a remote caller: how long Redis keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.redis_server import RedisServer
from tests.support.runs import client, submit
from tests.support.worker_pool import WorkerPools
from workers.contract.environment import NAMES
from workers.contract.run_store import ENV_NAMES

PROFILE = """
small:
  target: dev
  outputs:
    dev: {type: duckdb, path: ":memory:", schema: "{{ env_var('SCHEMA_OF_DB_PASS') }}"}
"""


def test_values_are_deleted_when_the_run_has_ended(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    worker_pool: WorkerPools,
    copy_project: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = copy_project("small")
    (project / "profiles.yml").write_text(PROFILE)
    worker_pool(1)
    monkeypatch.setenv("SCHEMA_OF_DB_PASS", "planted_value")
    relay = client(redis_server)
    result = relay.result(run_id := submit(redis_server, project, ["debug"]), timeout=60)
    assert result.success, result.stdout
    request = relay.store.request(run_id)
    assert request is not None
    assert (set(request.env), request.args) == ({NAMES}, ("debug",))
    assert "SCHEMA_OF_DB_PASS" in json.loads(relay.store.fact(run_id, ENV_NAMES) or "[]")
    for key in relay.store.keys.of_run(run_id):
        kept = redis_client.hgetall(key) if redis_client.type(key) == "hash" else {}
        assert not [name for name, value in kept.items() if "planted_value" in value and name != "final"]
