"""Masks credentials, by exact value, in text that dbt-relay writes: errors, records and logs.

Only known credentials are masked. SQL, rows and dbt's lines are not searched for text that resembles a password: that
would change data. In these, dbt itself masks the values of ``DBT_ENV_SECRET_*`` with the same mask
(`dbt_common.exceptions.base.scrub_secrets`).
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

# Both patterns are applied to URLs and values of a profile only. Each match starts at a literal or a word boundary,
# so the search is linear.
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
    """Whether a setting of this name holds a credential (``password``, ``motherduck_token``, ``key_id``). The path of
    a file with a credential (``private_key_path``) does not count."""
    return bool(_CREDENTIAL_NAME.search(name)) and not _FILE_NAME.search(name)


def credentials_in(value: str) -> tuple[str, ...]:
    """Find the passwords and tokens in a URL or a connection string.

    Args:
        value: such as ``redis://:PASSWORD@host``, ``md:db?motherduck_token=TOKEN``, ``host=x password=PASSWORD``.

    Returns:
        Each one as written and, if it is URL-encoded, decoded.
    """
    found = [match["value"] for match in _URL_PASSWORD.finditer(value)]
    found += [match["value"].strip("'") for match in _PAIR.finditer(value) if names_credential(match["name"])]
    return tuple({form for each in found for form in (each, unquote(each))})


def mask_url(url: str) -> str:
    """Replace the password and the credentials among the parameters of a URL, so that it may be shown."""
    url = _URL_PASSWORD.sub(rf"\g<before>{MASK}", url)
    return _PAIR.sub(
        lambda match: match["before"] + (MASK if names_credential(match["name"]) else match["value"]), url
    )


@lru_cache(maxsize=64)
def _forms(secrets: frozenset[str]) -> tuple[str, ...]:
    """Return every form in which a secret may be written, the longest first, as one may contain another."""
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
    """Escape what UTF-8 cannot encode (lone surrogates, Python's representation of bytes that are not UTF-8)."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
