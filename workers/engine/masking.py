"""Secrets out of what is stored. Only text is masked: a secret that reads like a status must not change one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

MASK = "*****"

_STRUCTURE = frozenset(
    {"unique_id", "status", "name", "resource_type", "node", "step", "code", "category", "error_class",
     "worker", "thread_id", "started_at", "completed_at", "generated_at", "invocation_id",
     "dbt_schema_version", "dbt_version", "language", "relation_name"}
)  # fmt: skip
"""Fields that hold words of dbt's and dbt-relay's own."""


def mask_json(raw: bytes, secrets: Sequence[str]) -> bytes:
    """JSON with every secret in its texts replaced."""
    if not secrets:
        return raw
    # a secret may contain another
    ordered = sorted(secrets, key=len, reverse=True)
    return msgspec.json.encode(_mask(msgspec.json.decode(raw), ordered))


def _mask(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, list):
        return [_mask(item, secrets) for item in value]
    if isinstance(value, dict):
        return {
            key: item if key in _STRUCTURE and isinstance(item, str) else _mask(item, secrets)
            for key, item in value.items()
        }
    return value
