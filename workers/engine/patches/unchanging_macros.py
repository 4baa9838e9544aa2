"""Marks the macros of a parsed manifest as unchanging, so that what is made of them can be kept with it."""

from __future__ import annotations

from typing import Any

from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro


class UnchangingMacros(dict[str, dict[str, Macro]]):
    """Macros by package of a manifest that does not change.

    Attributes:
        layouts: namespaces that were made of them (`patches.macros`), by the packages that are searched.
    """

    layouts: dict[tuple[Any, ...], Any]


def remember_macros(manifest: Manifest) -> None:
    """Keep the macros of this manifest, and of views of it, as they are from now on."""
    kept = UnchangingMacros(manifest.get_macros_by_package())
    kept.layouts = {}
    manifest._macros_by_package = kept
