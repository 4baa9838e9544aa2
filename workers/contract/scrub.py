"""Masks secrets in text that leaves a process: lines, results, logs.

What is masked: the secret values that the caller names, passwords in URLs, and the values of
``password=…`` and its like. dbt itself masks the values of ``DBT_ENV_SECRET_*`` alone
(`dbt_common.exceptions.base.scrub_secrets`), so a password of profiles.yml that a driver repeats in
its message would get through; the mask is dbt's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "*****"

_LINE_WORTH_MASKING = 8  # characters: shorter lines of a many-line secret say nothing

# scheme://user:PASSWORD@host; an unencoded slash ends the authority, so it cannot be in a password.
_URL_PASSWORD = re.compile(r"(?P<before>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@'\"]*:)[^\s/'\"]+(?=@)")

_VALUE = r"(?:'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"(){}\]]+)"

# password=x, PGPASSWORD: 'x', "password": "x"
_PASSWORD_PAIR = re.compile(
    rf"(?P<before>\b\w*(?:password|passwd|passphrase|pwd)\b['\"]?\s*(?:=>?|:)\s*){_VALUE}", re.IGNORECASE
)

# The words of this one occur in plain sentences too ("unexpected token: x"), so only = or quotes count.
_TOKEN_PAIR = re.compile(
    r"(?P<before>\b\w*(?:secret|token|api_?key|access_?key|private_?key)(?:_?id)?\b"
    rf"(?:['\"]\s*:\s*|\s*=\s*)){_VALUE}",
    re.IGNORECASE,
)

# create secret (type s3, key_id 'x', secret 'y')
_DUCKDB_SECRET = re.compile(r"(?P<before>\b(?:secret|key_id|session_token)\s+)'(?:[^']|'')*'", re.IGNORECASE)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with every secret replaced by `MASK`. Scrubbing twice changes nothing more.

    Args:
        text: anything somebody may read.
        secrets: values that must not appear; blank ones are ignored, as dbt does. They are found in
            their JSON-escaped and URL-encoded forms too, and the lines of a many-line secret singly.
    """
    for value in _forms(frozenset(secrets)):
        text = text.replace(value, MASK)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<before>{MASK}", text)
    lowered = text.lower()  # most lines have none of the words: looking for those first is quick
    if "pass" in lowered or "pwd" in lowered:
        text = _PASSWORD_PAIR.sub(rf"\g<before>{MASK}", text)
    if "secret" in lowered or "token" in lowered or "key" in lowered:
        text = _TOKEN_PAIR.sub(rf"\g<before>{MASK}", text)
        text = _DUCKDB_SECRET.sub(rf"\g<before>{MASK}", text)
    return text


@lru_cache(maxsize=64)
def _forms(secrets: frozenset[str]) -> tuple[str, ...]:
    """Every form in which a secret may be written, longest first: one may be part of another."""
    forms = set()
    for secret in secrets:
        if not secret.strip():
            continue
        lines = [line.strip() for line in secret.splitlines()]
        for value in [secret, *(line for line in lines if len(line) >= _LINE_WORTH_MASKING)]:
            forms |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
            forms |= {quote(value, safe=""), quote_plus(value)}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def escaped(text: str) -> str:
    """`text` as UTF-8 can carry it: of bytes that are not UTF-8 (lone surrogates in Python), escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
