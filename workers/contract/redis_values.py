"""Reads values from Redis that another release or another program may have written."""

from __future__ import annotations

import zlib
from typing import Any, Final, TypeVar

import msgspec

Value = TypeVar("Value")

MAX_UNPACKED: Final = 1024 * 1024 * 1024
"""Maximal bytes of an unpacked value. A manifest of 10,000 nodes has about a tenth of it."""


class UnpackError(ValueError):
    """Stored bytes are not zlib data, or unpack to more bytes than is accepted."""


def text_of(raw: bytes | None) -> str:
    """Decode a text. Bytes that are not UTF-8 are escaped."""
    return "" if raw is None else raw.decode(errors="backslashreplace")


def number_of(raw: Any) -> float:
    """Decode a number; 0.0 for anything else."""
    try:
        number = float(raw)
    except (TypeError, ValueError):
        return 0.0
    return number if number - number == 0 else 0.0  # 0.0 for infinity and NaN


def value_of(raw: bytes, kind: type[Value]) -> Value | None:
    """Decode a JSON value of a type; None for anything else."""
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_wrong_type(error: Exception) -> bool:
    """Whether Redis refused a command because the key has another type."""
    return "WRONGTYPE" in str(error)


def is_damaged(error: Exception) -> bool:
    """Whether a ledger script failed because of stored data: a key of another type, invalid JSON, not a number."""
    return is_wrong_type(error) or "user_script" in str(error)


def unpack(packed: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """Decompress zlib data.

    Args:
        packed: the data.
        limit: maximal bytes of the result.

    Raises:
        UnpackError: `packed` is not zlib data, is truncated, or unpacks to more than `limit` bytes.
    """
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(packed, limit)
    except zlib.error as error:
        raise UnpackError(f"not compressed by dbt-relay: {error}") from error
    if not engine.eof:
        raise UnpackError(
            f"unpacks to more than {limit} bytes"
            if engine.unconsumed_tail
            else "the compressed data is truncated"
        )
    return raw
