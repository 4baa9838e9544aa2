"""Empty tables, and the constants of the library that reads dates."""

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
    """dbt makes one of each statement that it wants no rows of, and agate all of its type tests for each."""
    return copy.copy(_no_rows())


_local = threading.local()
_constants_of_library = parsedatetime.Constants


def constants(*args: Any, **kwargs: Any) -> Any:
    """agate makes them for each type of each table that it reads, and dbt a table of each answer."""
    if args or set(kwargs) - {"localeID"}:
        return _constants_of_library(*args, **kwargs)
    known = _local.__dict__.setdefault("constants", {})
    locale = kwargs.get("localeID")
    if locale not in known:
        known[locale] = _constants_of_library(localeID=locale)
    return known[locale]
