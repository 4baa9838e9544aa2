"""The broker that the environment names."""

from __future__ import annotations

import os
from collections.abc import Mapping


def configured_broker(environ: Mapping[str, str] | None = None) -> str | None:
    """Return ``DBT_RELAY_BROKER_URL``, else ``REDIS_URL``; None when neither is set.

    Raises:
        DbtUsageError: the value is not a broker URL.
    """
    environ = os.environ if environ is None else environ
    for name in ("DBT_RELAY_BROKER_URL", "REDIS_URL"):
        url = environ.get(name, "").strip()
        if url:
            from workers.contract.settings import checked_broker_url

            return checked_broker_url(url, name)
    return None
