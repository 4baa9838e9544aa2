"""Reuses agate's empty table and the constants of parsedatetime."""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any

import agate  # type: ignore[import-untyped]
import parsedatetime  # type: ignore[import-untyped]


@functools.cache
def _no_rows() -> agate.Table:
    return agate.Table(rows=[])


def empty_table() -> agate.Table:
    """Return a copy of one empty table. dbt creates one for each statement without rows, and agate its type tests for each."""
    return copy.copy(_no_rows())


_local = threading.local()
_library_constants = parsedatetime.Constants


def constants(*args: Any, **kwargs: Any) -> Any:
    """Return the constants of a locale, created once per thread. agate creates them for each column type of each table."""
    if args or set(kwargs) - {"localeID"}:
        return _library_constants(*args, **kwargs)
    known = _local.__dict__.setdefault("constants", {})
    locale = kwargs.get("localeID")
    if locale not in known:
        known[locale] = _library_constants(localeID=locale)
    return known[locale]
