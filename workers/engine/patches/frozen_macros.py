"""Marks the macros of a parsed manifest as immutable, so that the layouts of their namespaces can be cached with it."""

from __future__ import annotations

from typing import Any

from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro


class FrozenMacros(dict[str, dict[str, Macro]]):
    """Macros by package, of a manifest that does not change.

    Attributes:
        layouts: cached layouts of their namespaces (`patches.macros`), by the packages that dbt searches.
    """

    layouts: dict[tuple[Any, ...], Any]


def freeze_macros(manifest: Manifest) -> None:
    """Fix the macros that dbt finds in this manifest, and in copies of it, to the present ones."""
    kept = FrozenMacros(manifest.get_macros_by_package())
    kept.layouts = {}
    manifest._macros_by_package = kept
