"""A manifest in which no two nodes hold the same dict or list.

Where dbt has just parsed a project, nodes may hold one object together: a dict of `dbt_project.yml` that is the config
of many, a config and its unrendered form. In a manifest that was read from a file or from Redis each has its own, as
in plain dbt with partial parsing. A template that changes such an object must change the same in all processes.
"""

from __future__ import annotations

import copy
from typing import Any

from dbt.contracts.graph.manifest import Manifest

_SECTIONS = (
    "nodes", "sources", "exposures", "metrics", "groups", "semantic_models", "saved_queries", "functions", "unit_tests",
)  # fmt: skip


def unshare(manifest: Manifest) -> None:
    """Give each entry containers of its own, and the manifest a flat graph of these."""
    seen: dict[int, Any] = {}
    replaced = 0
    for section in _SECTIONS:
        for entry in getattr(manifest, section, {}).values():
            replaced += _unshare(entry, seen)
    if replaced:
        manifest.build_flat_graph()


def _unshare(entry: Any, seen: dict[int, Any]) -> int:
    """Copy what was `seen` before; how many."""
    replaced, waiting = 0, [entry]
    while waiting:
        parent = waiting.pop()
        is_object = not isinstance(parent, (dict, list))
        below: Any = vars(parent) if is_object else parent
        for key, child in list(enumerate(below) if isinstance(below, list) else dict.items(below)):
            if isinstance(child, (dict, list)):
                if id(child) in seen:
                    child = copy.deepcopy(child)  # noqa: PLW2901 - it takes the other's place
                    below[key] = child
                    replaced += 1
            elif id(child) in seen or not (
                type(child).__module__.startswith("dbt") and hasattr(child, "__dict__")
            ):
                continue
            seen[id(child)] = child
            waiting.append(child)
    return replaced
