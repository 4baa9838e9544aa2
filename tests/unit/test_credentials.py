"""Masking of known values, and of passwords in URLs."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.credentials import MASK, credentials_in, mask_url, names_credential, scrub


@pytest.mark.parametrize(
    "text",
    [
        "redis://:s3cret@cache:6379/0",
        "host=db password=s3cret",
        '{"user": "u", "token": "s3cret"}',
        "select a from t where a.token = b.token",
        "create secret (type s3, key_id 'AKIA', secret 'abc')",
    ],
)
def test_unknown_values_are_not_masked(text: str) -> None:
    assert scrub(text) == text
    assert scrub(text, ["another value"]) == text


def test_given_values_are_masked_in_every_form() -> None:
    secret = "p\"ä/ s's"
    forms = [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        secret.replace("'", "''"),
    ]
    for form in forms:
        assert scrub(f"<{form}>", [secret]) == f"<{MASK}>"


def test_longer_of_two_overlapping_secrets_is_masked_first() -> None:
    assert scrub("abcdef", ["abc", "abcdef"]) == MASK


def test_each_long_line_of_a_key_is_masked() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nab\n-----END KEY-----"
    assert scrub("error at MIIEvQIBADANBg, ab", [key]) == f"error at {MASK}, ab"


def test_blank_secrets_mask_nothing() -> None:
    assert scrub("a b", ["", " "]) == "a b"


@given(secret=st.text(min_size=1).filter(str.strip), before=st.text(), after=st.text())
def test_no_form_of_a_secret_remains(secret: str, before: str, after: str) -> None:
    if secret in MASK or (before + after) in MASK:
        return
    assert not any(secret in part for part in scrub(before + secret + after, [secret]).split(MASK))


@pytest.mark.parametrize(
    ("url", "shown", "secrets"),
    [
        ("redis://:s3cret@cache:6379/0", "redis://:*****@cache:6379/0", {"s3cret"}),
        ("rediss://app:p%40ss@cache/0", "rediss://app:*****@cache/0", {"p%40ss", "p@ss"}),
        ("redis://app:p@ss@cache/0", "redis://app:*****@cache/0", {"p@ss"}),
        ("redis+socket://:s3cret@/run/r.sock?virtual_host=2", "redis+socket://:*****@/run/r.sock?virtual_host=2", {"s3cret"}),
        ("redis://cache?db=1&password=s3cret&x=1", "redis://cache?db=1&password=*****&x=1", {"s3cret"}),
        ("redis://redis:redis@redis:6379/0", "redis://redis:*****@redis:6379/0", {"redis"}),
        ("redis://cache:6379/0?db=1", "redis://cache:6379/0?db=1", set()),
        ("unix:///run/r.sock", "unix:///run/r.sock", set()),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(url: str, shown: str, secrets: set[str]) -> None:
    assert mask_url(url) == shown
    assert mask_url(shown) == shown
    assert set(credentials_in(url)) == secrets


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("md:stats?motherduck_token=abc.def", {"abc.def"}),
        ("postgres:host=db user=u password='a b' dbname=x", {"a b"}),
        ("ducklake:postgres:host=db password=s3cret", {"s3cret"}),
        ("ducklake:postgres://u:s3cret@db/x", {"s3cret"}),
        ("/data/token=1.duckdb", {"1.duckdb"}),
        ("/data/warehouse.duckdb", set()),
        ("http://" + "a." * 120_000, set()),
        ("http://" * 40_000, set()),
        ("x" * 300_000 + "://:" * 10, set()),
    ],
    ids=range(9),
)
def test_credentials_in_a_connection_string_are_found(text: str, secrets: set[str]) -> None:
    assert set(credentials_in(text)) == secrets


@pytest.mark.parametrize(
    "name", ["password", "pass", "motherduck_token", "key_id", "SECRET", "private_key", "pwd"]
)
def test_names_of_credentials(name: str) -> None:
    assert names_credential(name)


@pytest.mark.parametrize("name", ["user", "schema", "private_key_path", "keyfile", "search_path", "host"])
def test_names_of_other_settings(name: str) -> None:
    assert not names_credential(name)
