"""Fixtures of unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
import redis

from tests.support.processes import short_directory
from tests.support.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.keys import Keys
from workers.ledger.ledger import Ledger


@pytest.fixture(params=["fakeredis", "server"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger on an empty server: fakeredis, and a real one."""
    client: redis.Redis
    if request.param == "fakeredis":
        client = fakeredis.FakeRedis()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        client = connect(server.url)
    yield Ledger(client, keys=Keys("test"), lease_ms=60_000, result_ttl=100)
    client.close()


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets."""
    path = short_directory("relay-emb-")
    yield path
    shutil.rmtree(path)
