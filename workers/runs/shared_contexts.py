"""Parsed projects in Redis, which the worker processes share (`engine.interface.SharedContexts`)."""

from __future__ import annotations

import contextlib

import redis

from workers.ledger.ledger import Ledger

CONTEXT_TTL = 7 * 24 * 3600
"""Seconds that a parsed project is kept after its last use."""


class RedisContexts:
    """Packed manifests in Redis. Where Redis is full nothing is kept, and other processes parse themselves."""

    def __init__(self, ledger: Ledger) -> None:
        self._client, self._keys = ledger.client, ledger.keys

    def load(self, key: str) -> bytes | None:
        """The packed manifest of a context, or None."""
        return self._client.getex(self._keys.context(key), ex=CONTEXT_TTL)  # type: ignore[return-value]

    def save(self, key: str, packed: bytes) -> None:
        """Keep the packed manifest of a context."""
        with contextlib.suppress(redis.OutOfMemoryError):
            self._client.set(self._keys.context(key), packed, ex=CONTEXT_TTL)

    def index(self, family: str) -> bytes | None:
        """What the last parse of a family of contexts read, or None."""
        return self._client.get(self._keys.context("index:" + family))  # type: ignore[return-value]

    def save_index(self, family: str, index: bytes) -> None:
        """Keep what a parse of a family of contexts read."""
        with contextlib.suppress(redis.OutOfMemoryError):
            self._client.set(self._keys.context("index:" + family), index, ex=CONTEXT_TTL)
