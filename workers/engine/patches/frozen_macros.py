"""Marks the macros of a parsed manifest as unchanging, so that layouts of them can be kept with it."""

from __future__ import annotations

from typing import Any

from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro


class FrozenMacros(dict[str, dict[str, Macro]]):
    """Macros by package of a manifest that does not change.

    Attributes:
        layouts: layouts of their namespaces (`patches.macros`), by the packages that are searched.
    """

    layouts: dict[tuple[Any, ...], Any]


def freeze_macros(manifest: Manifest) -> None:
    """Make dbt find the macros of this manifest, and of copies of it, as they are now."""
    kept = FrozenMacros(manifest.get_macros_by_package())
    kept.layouts = {}
    manifest._macros_by_package = kept
