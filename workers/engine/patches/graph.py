"""Selects a part of dbt's graph."""

from __future__ import annotations

from collections.abc import Iterable

from dbt.graph import Graph, UniqueId

_dbt_get_subset_graph = Graph.get_subset_graph


def get_subset_graph(self: Graph, selected: Iterable[UniqueId]) -> Graph:
    """Return the graph of a single selected node without dbt's loop, which removes all other nodes one by one."""
    only = set(selected)
    if len(only) == 1 and only <= self.graph.nodes.keys():
        return Graph(self.graph.__class__(self.graph.subgraph(only)))
    return _dbt_get_subset_graph(self, only)
