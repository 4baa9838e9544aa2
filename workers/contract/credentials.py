"""Replaces credentials, by exact value, in text that dbt-relay itself writes: errors, records and logs.

Only values that are known to be credentials are looked for. Text of a project (SQL, rows, dbt's lines) is not
searched for what looks like a password: that would change data. dbt masks the values of ``DBT_ENV_SECRET_*``
there itself (`dbt_common.exceptions.base.scrub_secrets`), with the same mask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, quote_plus, unquote

MASK: Final = "*****"

_LINE_WORTH_MASKING = 8  # characters: a shorter line of a multi-line secret occurs in other text too

_CREDENTIAL_NAME = re.compile(r"pass|pwd|secret|token|key|private|credential|authorization", re.IGNORECASE)
_FILE_NAME = re.compile(r"(?:path|file)$", re.IGNORECASE)

# Both patterns are applied to URLs and to values of a profile only. Each match begins at a literal or at the
# start of a word, so the search is linear.
_URL_PASSWORD = re.compile(r"(?<=://)(?P<before>[^/:@]*:)(?P<value>[^/]+)(?=@)")
_PAIR = re.compile(r"\b(?P<before>(?P<name>\w+)=)(?P<value>'[^']*'|[^\s&;]+)")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace every occurrence of the given values.

    Args:
        text: any text.
        secrets: the values. Blank ones are ignored, as dbt does. Their JSON-escaped, SQL-escaped and URL-encoded
            forms are replaced too, and each long line of a multi-line value.

    Returns:
        `text` with `MASK` in place of the values. The time is proportional to its length.
    """
    for value in _forms(frozenset(secrets)):
        text = text.replace(value, MASK)
    return text


def names_credential(name: str) -> bool:
    """Whether a setting of this name holds a credential (``password``, ``motherduck_token``, ``key_id``), and not
    the path of a file that does (``private_key_path``)."""
    return bool(_CREDENTIAL_NAME.search(name)) and not _FILE_NAME.search(name)


def credentials_in(value: str) -> tuple[str, ...]:
    """The passwords and tokens within a URL or a connection string.

    Args:
        value: such as ``redis://:PASSWORD@host``, ``md:db?motherduck_token=TOKEN``, ``host=x password=PASSWORD``.

    Returns:
        Each as it is written, and decoded where it is URL-encoded.
    """
    found = [match["value"] for match in _URL_PASSWORD.finditer(value)]
    found += [match["value"].strip("'") for match in _PAIR.finditer(value) if names_credential(match["name"])]
    return tuple({form for each in found for form in (each, unquote(each))})


def mask_url(url: str) -> str:
    """A URL that may be shown: its password, and credentials among its parameters, are replaced."""
    url = _URL_PASSWORD.sub(rf"\g<before>{MASK}", url)
    return _PAIR.sub(
        lambda match: match["before"] + (MASK if names_credential(match["name"]) else match["value"]), url
    )


@lru_cache(maxsize=64)
def _forms(secrets: frozenset[str]) -> tuple[str, ...]:
    """Every form in which a secret may be written, the longest first: one may be part of another."""
    forms = set()
    for secret in secrets:
        if not secret.strip():
            continue
        lines = [line.strip() for line in secret.splitlines()]
        for value in [secret, *(line for line in lines if len(line) >= _LINE_WORTH_MASKING)]:
            forms |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
            forms |= {quote(value, safe=""), quote_plus(value), value.replace("'", "''")}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def escaped(text: str) -> str:
    """`text` as UTF-8 can carry it: of bytes that are not UTF-8 (lone surrogates in Python), escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
