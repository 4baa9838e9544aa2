"""Reading values from Redis that another program may have written."""

from __future__ import annotations

import zlib

import pytest

from workers.contract.redis_values import UnpackError, number_of, text_of, unpack, value_of


def test_packed_bytes_come_back() -> None:
    assert unpack(zlib.compress(b"x" * 5000)) == b"x" * 5000
    assert unpack(zlib.compress(b"")) == b""


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (zlib.compress(b"\0" * 100_000), "more than"),
        (zlib.compress(b"x" * 5000)[:-6], "truncated"),
        (b"garbage", "not compressed"),
        (b"", "truncated"),
    ],
)
def test_invalid_or_too_large_packed_data_is_refused(packed: bytes, reason: str) -> None:
    with pytest.raises(UnpackError, match=reason):
        unpack(packed, limit=10_000)


def test_invalid_utf8_is_escaped() -> None:
    assert text_of(b"a\xff") == "a\\xff"
    assert text_of(None) == ""


@pytest.mark.parametrize("raw", [b"x", "x", None, b"", b"nan", "inf", [], b"\xff"])
def test_invalid_number_is_zero(raw: object) -> None:
    assert number_of(raw) == 0.0


def test_numbers() -> None:
    assert (number_of(b"12"), number_of("1.5"), number_of(-3)) == (12.0, 1.5, -3.0)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": "x"}', b"[" * 5000])
def test_json_of_another_type_is_none(raw: bytes) -> None:
    assert value_of(raw, dict[str, int]) is None


def test_valid_json_value_is_returned() -> None:
    assert value_of(b'{"a": 1}', dict[str, int]) == {"a": 1}
