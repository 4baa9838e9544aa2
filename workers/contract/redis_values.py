"""Tolerant reading of what is in Redis: a newer release or another program may have written it."""

from __future__ import annotations

import zlib
from typing import Any, Final, TypeVar

import msgspec

Value = TypeVar("Value")

MAX_UNPACKED: Final = 1024 * 1024 * 1024
"""Bytes that anything stored may unpack to. A manifest of 10,000 nodes has about a tenth of it."""


class UnpackError(ValueError):
    """Stored bytes are not what was packed, or unpack to more than is accepted."""


def text_of(raw: bytes | None) -> str:
    """Bytes as text; what is not UTF-8 is escaped, so that it can be shown."""
    return "" if raw is None else raw.decode(errors="backslashreplace")


def number_of(raw: Any) -> float:
    """A stored number; 0.0 where it is none."""
    try:
        number = float(raw)
    except (TypeError, ValueError):
        return 0.0
    return number if number - number == 0 else 0.0  # neither infinite nor NaN


def value_of(raw: bytes, kind: type[Value]) -> Value | None:
    """A stored JSON value of a type, or None where it is not one."""
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_wrong_type(error: Exception) -> bool:
    """Whether Redis refused a command because the key has another type."""
    return "WRONGTYPE" in str(error)


def is_damaged(error: Exception) -> bool:
    """Whether a script of ours failed at what it found: a key of another type, text that is no JSON, no number."""
    return is_wrong_type(error) or "user_script" in str(error)


def unpack(packed: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """Decompress what was compressed with zlib.

    Args:
        limit: bytes that the result may have.

    Raises:
        UnpackError: it is not zlib data, is cut off, or is larger than `limit`.
    """
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(packed, limit)
    except zlib.error as error:
        raise UnpackError(f"not compressed by dbt-relay: {error}") from error
    if not engine.eof:
        more = "more than the accepted" if engine.unconsumed_tail else "fewer than the promised"
        raise UnpackError(f"unpacks to {more} bytes")
    return raw
