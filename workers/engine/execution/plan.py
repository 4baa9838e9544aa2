"""Plans a run: the nodes that dbt's selector picks, their order and their dependencies."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Any

import networkx as nx
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.deprecations import active_deprecations
from dbt.task.build import BuildTask
from dbt_common.events.contextvars import task_contextvars

from dbt import selected_resources
from workers.contract.errors import DbtUsageError
from workers.engine.execution.retry import select_only
from workers.engine.execution.run_state import RunState
from workers.engine.interface import OwnLimits, Plan, PlannedNode, Retry, RunFacts
from workers.engine.project.time_limits import own_limits
from workers.engine.warehouse.concurrency import unsplittable_reason, warehouse_of
from workers.engine.warehouse.relation_names import RelationLocks


def make_plan(run: RunState, retry: Retry | None = None, node_ids: frozenset[str] = frozenset()) -> Plan:
    """Plan a run: select nodes with dbt's selector, and find the edges between them.

    Args:
        retry: set where the run repeats part of an earlier run.
        node_ids: the nodes to repeat then.

    Raises:
        dbt's own errors: dbt refuses a selector, or the graph has a cycle.
        DbtUsageError: a node has invalid time limits.
    """
    task = run.task
    if retry is not None:
        select_only(task, node_ids)
    with task_contextvars(project_root=run.config.project_root):  # path selectors start there
        task._runtime_initialize()
    parents, children, order = _edges(task)
    warehouse = warehouse_of(run.config)
    # a run on a single-process warehouse locks the whole warehouse instead
    locks = None if warehouse else RelationLocks(run.config, run.context.adapter.Relation)
    flattened = [node.unique_id for node in task._flattened_nodes]
    nodes = tuple(
        _planned(run, unique_id, order[unique_id], parents[unique_id], children[unique_id], locks)
        for unique_id in parents
    )
    # BuildTask adds its unit tests when it starts its first node (handle_job_queue)
    total = task.num_nodes + (len(task.selected_unit_tests) if isinstance(task, BuildTask) else 0)
    facts = RunFacts(
        context_key=run.context.key,
        selected=tuple(selected_resources.SELECTED_RESOURCES),
        flattened=tuple(flattened),
        total=total,
        deprecations=dict(active_deprecations),
        retry=retry,
        limits=_limits(run, parents),
        fail_fast=bool(run.flags.FAIL_FAST),
    )
    return Plan(
        facts=facts,
        nodes=nodes,
        threads=run.config.threads or 1,
        warehouse=warehouse,
        whole=unsplittable_reason(run.config, run.flags),
    )


def _edges(task: Any) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, int]]:
    """Parents, children and priority of the selected nodes.

    Unit tests of ``dbt build`` become a chain of nodes before their model: dbt runs them one after another when it
    reaches the model, and skips the rest once one has failed
    (dbt.task.build.BuildTask.call_model_and_unit_tests_runner).
    """
    graph: nx.DiGraph = task.job_queue.graph
    scores: dict[str, int] = task.job_queue._scores
    unit_tests: dict[str, list[str]] = getattr(task, "model_to_unit_test_map", {})
    parents = {node: list(graph.predecessors(node)) for node in graph.nodes}
    children = {node: list(graph.successors(node)) for node in graph.nodes}
    order = dict(scores)
    for model, tests in unit_tests.items():
        if model not in parents:
            continue
        chain = [*sorted(tests), model]
        above = list(parents[model])
        parents[chain[0]] = above
        for parent in above:
            children[parent].append(chain[0])
        for test, following in itertools.pairwise(chain):
            children[test], order[test] = [following], scores[model]
            parents[following] = [*parents[model], test] if following == model else [test]
    return parents, children, order


def _limits(run: RunState, planned: Iterable[str]) -> dict[str, OwnLimits]:
    limits = ((unique_id, own_limits(run.node(unique_id))) for unique_id in planned)
    return {unique_id: limit for unique_id, limit in limits if limit is not None}


def _planned(
    run: RunState,
    unique_id: str,
    priority: int,
    parents: list[str],
    children: list[str],
    locks: RelationLocks | None,
) -> PlannedNode:
    node: Any = run.node(unique_id)
    return PlannedNode(
        unique_id=unique_id, name=node.name, resource_type=str(node.resource_type),
        priority=priority, parents=tuple(parents), children=tuple(children),
        ephemeral=bool(node.is_ephemeral_model), lock=locks.name(node) if locks else "",
    )  # fmt: skip


def check_models(manifest: Manifest, config: RuntimeConfig, names: tuple[str, ...]) -> None:
    """Check that the project has models (seeds, snapshots) of these names.

    Raises:
        DbtUsageError: a name is unknown. Suggests similar names.
    """
    if not names:
        return
    known = {
        name
        for node in manifest.nodes.values()
        if str(node.resource_type) in {"model", "seed", "snapshot"}
        for name in (node.name, node.unique_id)
    }
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
        disabled = any(
            getattr(node, "name", None) == name for nodes in manifest.disabled.values() for node in nodes
        )
        hint = (
            f"It is disabled: set `enabled: true` on {name!r} to run it."
            if disabled
            else f"Did you mean {', '.join(near)}?" if near
            else "`dbt-relay ls --resource-type model` lists the project's models."
        )  # fmt: skip
        raise DbtUsageError(f"project {config.project_name!r} has no model named {name!r}. {hint}")
