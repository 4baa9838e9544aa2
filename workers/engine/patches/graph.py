"""The part of dbt's graph that was selected."""

from __future__ import annotations

from collections.abc import Iterable

from dbt.graph import Graph, UniqueId

_subset_of_dbt = Graph.get_subset_graph


def get_subset_graph(self: Graph, selected: Iterable[UniqueId]) -> Graph:
    """dbt takes the unselected nodes out of a copy of the whole graph, one after another; of a single
    node nothing else is left."""
    only = set(selected)
    if len(only) == 1 and only <= self.graph.nodes.keys():
        return Graph(self.graph.__class__(self.graph.subgraph(only)))
    return _subset_of_dbt(self, only)
