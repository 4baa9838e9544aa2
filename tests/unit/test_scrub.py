from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.scrub import MASK, scrub


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("redis://:s3cret@cache:6379/0", "redis://:*****@cache:6379/0"),
        ("rediss://app:s3cret@cache:6379/0 is down", "rediss://app:*****@cache:6379/0 is down"),
        ("postgresql://u:p%40ss@db/x and https://me:t0ken@git/x.git",
         "postgresql://u:*****@db/x and https://me:*****@git/x.git"),
        ("postgres://u:p@ss@db/x", "postgres://u:*****@db/x"),
        ("host=db port=5432 user=relay password=s3cret dbname=x",
         "host=db port=5432 user=relay password=***** dbname=x"),
        ("password='it''s here' dbname=x", "password=***** dbname=x"),
        (r"password='a\'b c' dbname=x", "password=***** dbname=x"),
        ('{"user": "u", "password": "s3cret"}', '{"user": "u", "password": *****}'),
        ("PGPASSWORD=s3cret psql", "PGPASSWORD=***** psql"),
        ("  password: s3cret\n  user: u", "  password: *****\n  user: u"),
        ("connect(pwd=s3cret, db=1)", "connect(pwd=*****, db=1)"),
        ("aws_secret_access_key=abc/def region=x", "aws_secret_access_key=***** region=x"),
        ('{"api_key": "abc"}', '{"api_key": *****}'),
        ("create secret (type s3, key_id 'AKIA', secret 'abc')",
         "create secret (type s3, key_id *****, secret *****)"),
    ],
)  # fmt: skip
def test_passwords_are_masked_wherever_they_stand(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed
    assert scrub(scrubbed) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        'connection to server at "127.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "u"',
        "no password supplied",
        "'password' is a required property",
        "Parser Error: unexpected token: from",
        "https://docs.getdbt.com:443/reference and somebody@example.com",
        "redis://cache:6379/0",
        "select password_changed_at, token from users",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text


def test_given_values_are_masked_in_every_form() -> None:
    secret = 'p"ä/ ss'
    forms = [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
    ]
    for form in forms:
        assert scrub(f"<{form}>", [secret]) == f"<{MASK}>"


def test_the_longer_of_two_overlapping_secrets_goes_first() -> None:
    assert scrub("abcdef", ["abc", "abcdef"]) == MASK


def test_each_long_line_of_a_key_is_masked() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nab\n-----END KEY-----"
    assert scrub("error at MIIEvQIBADANBg, ab", [key]) == f"error at {MASK}, ab"


def test_blank_secrets_mask_nothing() -> None:
    assert scrub("a b", ["", " "]) == "a b"


@given(secret=st.text(min_size=1).filter(str.strip), before=st.text(), after=st.text())
def test_a_secret_never_comes_through(secret: str, before: str, after: str) -> None:
    if secret in MASK or (before + after) in MASK:
        return
    assert not any(secret in part for part in scrub(before + secret + after, [secret]).split(MASK))
