"""Clients of a server that refuses every write."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.redis_server import RedisServer
from workers.contract.connection import WritesRefusedError, connect, detecting_refused_writes, is_server_down

REPLICA = (["replicaof", "127.0.0.1", "1"], ["replicaof", "no", "one"])
NO_REPLICAS = (
    ["config", "set", "min-replicas-to-write", "1"],
    ["config", "set", "min-replicas-to-write", "0"],
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    own.start()
    yield own
    own.close()


@pytest.fixture
def refuse(server: RedisServer) -> Iterator[Callable[[list[str]], None]]:
    with server.client() as client:
        yield lambda command: client.execute_command(*command)
        client.execute_command(*REPLICA[1])
        client.execute_command(*NO_REPLICAS[1])


@pytest.mark.parametrize("how", [REPLICA, NO_REPLICAS], ids=["a replica", "too few replicas"])
def test_server_that_refuses_writes_counts_as_down(
    server: RedisServer, refuse: Callable[[list[str]], None], how: tuple[list[str], list[str]]
) -> None:
    with connect(server.url, patience=0) as client:
        client.set("key", "before")
        refuse(how[0])
        with pytest.raises(WritesRefusedError) as refused:
            client.set("key", "meanwhile")
        assert is_server_down(refused.value)
        with client.pipeline(transaction=False) as pipe, pytest.raises(WritesRefusedError):
            pipe.set("key", "meanwhile").get("key").execute()
        refuse(how[1])
        assert client.get("key") == b"before"


def test_client_retries_until_writes_are_accepted(
    server: RedisServer, refuse: Callable[[list[str]], None]
) -> None:
    refuse(NO_REPLICAS[0])
    with connect(server.url, patience=60) as client:
        tries = 0

        def counted() -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                refuse(NO_REPLICAS[1])

        backoff = client.get_retry()
        assert backoff is not None
        computed = backoff._backoff.compute
        backoff._backoff.compute = lambda failures: (counted(), computed(failures))[1]  # type: ignore[method-assign]
        client.set("key", "after")
        assert tries == 3
        assert client.get("key") == b"after"


def test_other_errors_are_unchanged(server: RedisServer) -> None:
    with connect(server.url) as client:
        client.set("key", "text")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("key")


def test_connection_class_of_a_channel_is_garbage_collected() -> None:
    class OfOneChannel(redis.Connection):
        pass

    made = weakref.ref(detecting_refused_writes(OfOneChannel))
    gone = weakref.ref(OfOneChannel)
    del OfOneChannel
    gc.collect()
    assert (made(), gone()) == (None, None)
