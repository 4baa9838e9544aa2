"""Encodes a parsed manifest as bytes, for other worker processes, and decodes it."""

from __future__ import annotations

import contextlib
import gc
import zlib
from collections.abc import Iterator

from dbt.contracts.graph.manifest import Manifest
from dbt.parser.manifest import extended_mashumaro_encoder, extended_mashumuro_decoder


def pack(manifest: Manifest) -> bytes:
    """Encode a manifest in the format of dbt's partial parsing, compressed."""
    return zlib.compress(packed(manifest), 1)


def packed(manifest: Manifest) -> bytes:
    """Encode a manifest like `pack`, without compression."""
    flat, manifest.flat_graph = manifest.flat_graph, {}
    try:
        with uncollected():
            raw: bytes = manifest.to_msgpack(extended_mashumaro_encoder)
    finally:
        manifest.flat_graph = flat
    return raw


def unpacked(raw: bytes) -> Manifest:
    """Decode a manifest from the bytes that `packed` returned. It has no flat graph."""
    with uncollected():
        manifest: Manifest = Manifest.from_msgpack(raw, decoder=extended_mashumuro_decoder)
    return manifest


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause garbage collection inside the block.

    It creates tens of thousands of objects that stay. Searching them for garbage takes a third of the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
