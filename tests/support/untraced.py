"""Runs dbt without coverage's tracer, with which it takes twice as long. Coverage of dbt is not measured."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from dbt.parser.manifest import ManifestLoader


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function` so that this thread's tracer is off while it runs."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return call


def parse_untraced() -> None:
    """Turn the tracer off while dbt parses, which takes half of the time of the engine's tests."""
    if not hasattr(ManifestLoader.load, "__wrapped__"):
        ManifestLoader.load = untraced(ManifestLoader.load)
