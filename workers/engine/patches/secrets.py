"""The values of ``DBT_ENV_SECRET_…`` variables."""

from __future__ import annotations

import os
from typing import Any

from dbt_common.constants import SECRET_ENV_PREFIX


def env_secrets() -> list[str]:
    """Return the values. dbt decodes the whole environment for each exception, and raises a dozen to find a macro."""
    environ: Any = os.environ
    if _SECRET not in _EMPTY.join(environ._data):
        return []
    keys: list[Any] = [key for key in environ._data if key.startswith(_SECRET)]
    return [value for key in keys if (value := os.environ[os.environ.decodekey(key)]).strip()]


_SECRET = os.environ.encodekey(SECRET_ENV_PREFIX)
_EMPTY = _SECRET[:0]
