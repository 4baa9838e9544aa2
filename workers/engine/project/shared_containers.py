"""A manifest in which no two nodes hold the same dict or list.

Where dbt has just parsed a project, nodes may hold one object together: a dict of `dbt_project.yml` that is the config
of many, a config and its unrendered form. In a manifest that was read from a file or from Redis each has its own, as
in plain dbt with partial parsing. A template that changes such an object must change the same in all processes.
"""

from __future__ import annotations

import copy
import functools
from enum import Enum
from typing import Any

from dbt.contracts.graph.manifest import Manifest

_SECTIONS = (
    "nodes", "sources", "exposures", "metrics", "groups", "semantic_models", "saved_queries", "functions", "unit_tests",
)  # fmt: skip


def copy_shared_containers(manifest: Manifest) -> None:
    """Give each entry containers of its own, and the manifest a flat graph of these."""
    seen: dict[int, Any] = {}
    replaced = 0
    for section in _SECTIONS:
        for entry in getattr(manifest, section, {}).values():
            replaced += _copy_shared(entry, seen)
    if replaced:
        manifest.build_flat_graph()


def _copy_shared(entry: Any, seen: dict[int, Any]) -> int:
    """Copy what was `seen` before; how many."""
    replaced, waiting = 0, [entry]
    while waiting:
        parent = waiting.pop()
        below: Any = parent if isinstance(parent, (dict, list)) else vars(parent)
        for key, child in enumerate(below) if isinstance(below, list) else dict.items(below):
            kind: Any = type(child)
            if kind in _SCALARS or not _has_some_below(kind):
                continue
            if id(child) in seen:
                if not isinstance(child, (dict, list)):
                    continue
                child = copy.deepcopy(child)  # noqa: PLW2901 - it takes the other's place
                below[key] = child
                replaced += 1
            seen[id(child)] = child
            waiting.append(child)
    return replaced


_SCALARS = frozenset({str, int, float, bool, type(None)})


@functools.cache
def _has_some_below(kind: Any) -> bool:
    of_dbt = kind.__module__.startswith("dbt") and not issubclass(kind, (str, Enum))
    return issubclass(kind, (dict, list)) or (of_dbt and getattr(kind, "__dictoffset__", 0) != 0)
