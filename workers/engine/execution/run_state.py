"""State of a run in one process: dbt's task object, over a copy-on-write manifest.

A run changes the nodes that it compiles: the node, the ephemeral models that it inlines, hooks. Many runs share one
warm manifest. So a run copies these nodes before it changes them (`RunState.copy_node`), and no run sees what
another compiled.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from inspect import signature
from typing import Any

import msgspec
from dbt.cli.flags import Flags
from dbt.clients.jinja import MacroGenerator
from dbt.compilation import _generate_stats, print_compile_stats
from dbt.config.runtime import RuntimeConfig
from dbt.context.providers import generate_runtime_model_context
from dbt.context.query_header import generate_query_header_context
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import HookNode
from dbt.graph.thread_pool import DbtThreadPool
from dbt.task import group_lookup
from dbt.task.build import BuildTask
from dbt.task.run import RunTask
from dbt.task.seed import SeedTask
from dbt.task.snapshot import SnapshotTask
from dbt.task.test import TestTask
from dbt_common.events import functions

from dbt import selected_resources
from workers.engine.caller.invocation import use_flags
from workers.engine.execution.current_graph import CurrentGraph
from workers.engine.execution.relation_cache import CacheRecorder
from workers.engine.execution.retry import restore_batches, restore_start_time
from workers.engine.interface import RunFacts
from workers.engine.project.context import Context
from workers.engine.project.graph_files import LinkedGraph, linked_by_dbt
from workers.engine.template_state import calls as template_calls
from workers.engine.template_state.state import GraphIndex, TemplateState, containers

TASKS: dict[str, type[RunTask]] = {
    "build": BuildTask,
    "run": RunTask,
    "seed": SeedTask,
    "snapshot": SnapshotTask,
    "test": TestTask,
}


def manifest_for_run(manifest: Manifest) -> Manifest:
    """A manifest for one run, with its own mappings; nodes are shared until `RunState.copy_node` copies them."""
    copied: Manifest = Manifest.__new__(Manifest)
    copied.__dict__.update(manifest.__dict__)
    copied.nodes = dict(manifest.nodes)
    copied.unit_tests = dict(manifest.unit_tests)
    copied.sources = dict(manifest.sources)
    if hasattr(manifest, "functions"):  # dbt-core >= 1.11
        copied.functions = dict(manifest.functions)
    copied.metadata = copy.copy(manifest.metadata)
    if "unit_tests" in manifest.flat_graph:  # dbt-core >= 1.12: `graph` shows the current state of nodes
        copied.build_flat_graph()
    return copied


class RunState(msgspec.Struct, kw_only=True):
    """State of a run in this process.

    Attributes:
        flags: flags of the command; for ``retry``, those of the repeated command.
        console: flags of the caller's own command line, which control what dbt prints.
        run_results: run_results.json of a run that an on-run-end hook ended with an error.
        templates: changes that templates made to objects that outlive their node.
        current_graph: shows in `graph` what other processes compiled.
        pool: threads of the microbatch model that is executing.
        selected, environment: dbt's `selected_resources` and `dbt_metadata_envs`, which templates may change.
        copied: unique ids of the nodes that the run has copied.
        inlined_models: the copied nodes that are ephemeral models.
    """

    run_id: str
    flags: Flags
    console: Flags
    config: RuntimeConfig
    context: Context
    manifest: Manifest
    task: Any
    recorder: CacheRecorder
    query_header: Any
    templates: TemplateState = None  # type: ignore[assignment]
    current_graph: CurrentGraph = msgspec.field(default_factory=CurrentGraph)
    facts: RunFacts | None = None
    run_results: dict[str, Any] | None = None
    pool: DbtThreadPool | None = None
    selected: list[str] | None = None
    environment: dict[str, str] | None = None
    copied: set[str] = msgspec.field(default_factory=set)
    inlined_models: set[str] = msgspec.field(default_factory=set)

    def __post_init__(self) -> None:
        context = self.context
        self.templates = TemplateState(
            context.adapter, self.manifest.flat_graph, context.graph_index, self.other_roots, self.copy_node,
            self.macro_of,
        )  # fmt: skip
        self.current_graph.watch(self.manifest.flat_graph)

    def copy_node(self, unique_id: str) -> Any:
        """Return the run's own copy of a node; copy it, and the ephemeral models that it inlines, on first use."""
        if unique_id in self.copied:
            return self.node(unique_id)
        self.copied.add(unique_id)
        node = copy.deepcopy(self.node(unique_id), self._shared_with_graph(unique_id))
        if self.facts is not None:
            restore_batches(node, self.facts.retry)
        self._mapping_of(unique_id)[unique_id] = node
        if unique_id in self.manifest.nodes and node.is_ephemeral_model:
            self.inlined_models.add(unique_id)
        depends_on = getattr(node, "depends_on", None)
        for parent in getattr(depends_on, "nodes", ()):
            found = self.manifest.nodes.get(parent)
            if found is not None and found.is_ephemeral_model:
                self.copy_node(parent)
        return node

    def _shared_with_graph(self, unique_id: str) -> dict[int, Any]:
        """Objects that a node shares with its entry in `graph`, as a memo for `copy.deepcopy`.

        The copy shares them too, because a change that a template makes in `graph` must change the node.
        """
        graph = self.context.manifest.flat_graph
        entry = graph.get("nodes", {}).get(unique_id) or graph.get("functions", {}).get(unique_id)
        return containers(entry)

    def copy_all_nodes(self) -> None:
        """Copy all nodes, because deferral changes them all."""
        for unique_id in list(self.manifest.nodes):
            self.copy_node(unique_id)

    def copy_hooks(self) -> list[str]:
        """Copy the project's on-run-start and on-run-end hooks, and return their unique ids."""
        hooks = [unique_id for unique_id, node in self.manifest.nodes.items() if isinstance(node, HookNode)]
        for unique_id in hooks:
            self.copy_node(unique_id)
        return hooks

    def apply_plan(self, facts: RunFacts) -> None:
        """Set the state that planning set in the process that planned the run."""
        self.facts = facts
        self.task.num_nodes = facts.total
        # as dbt.task.runnable.GraphRunnableTask._runtime_initialize
        self.task.compiler.selected_node_ids = set(facts.selected)  # dbt-core >= 1.12
        self.task._flattened_nodes = [self.node(unique_id) for unique_id in facts.flattened]
        restore_start_time(self.task, facts.retry)
        self.recorder.deprecated = Counter(facts.deprecations)
        self.use()
        if self.task.args.defer:
            self.copy_all_nodes()
            self.task.defer_to_manifest()
            graph = self.manifest.flat_graph  # dbt built a new one
            self.templates.use_graph(graph, GraphIndex(graph))
            self.current_graph.watch(graph)

    def use(self) -> None:
        """Make this run's flags, adapter, relation cache, selection and groups those of the process."""
        use_flags(self.flags)
        self.context.use_adapter()
        adapter = self.context.adapter
        adapter.config = adapter.connections.profile = self.config
        adapter.connections.query_header = self.query_header
        adapter.set_macro_resolver(self.manifest)
        self.recorder.use()
        if self.environment is None:
            self.environment = functions.get_metadata_vars()
        functions.metadata_vars = self.environment
        template_calls.enter(self.templates)
        if self.facts is not None:
            if self.selected is None:
                selected_resources.set_selected_resources(set(self.facts.selected))
                self.selected = selected_resources.SELECTED_RESOURCES
            selected_resources.SELECTED_RESOURCES = self.selected
            group_lookup._node_id_to_group_name_map.clear()
            group_lookup._group_name_to_group_map.clear()
            group_lookup.init(self.manifest, set(self.facts.flattened))

    def other_roots(self) -> dict[str, Any]:
        """Objects other than `graph` that templates can change and that outlive their node, by dbt-relay's names."""
        config = self.config
        projects = {name: project.vars for name, project in config.load_dependencies().items()}
        return {
            "vars": config.cli_vars, "project vars": config.vars, "package vars": projects,
            "flags": vars(self.flags), "credentials": config.credentials,
            "selected": self.selected, "environment": self.environment,
        }  # fmt: skip

    def macro_of(self, unique_id: str, node: str) -> Any:
        """A macro in the context of a node, or None.

        Args:
            unique_id: of the macro.
            node: unique id of the node.
        """
        macro = self.manifest.macros.get(unique_id)
        if macro is None or node not in self.manifest.nodes:
            return None
        owner = self.copy_node(node)
        context = generate_runtime_model_context(owner, self.config, self.manifest)
        return MacroGenerator(macro, context, owner, context["context_macro_stack"])

    def node(self, unique_id: str) -> Any:
        """The run's entry for a unique id: a node, unit test, source, saved query, exposure or function."""
        return self._mapping_of(unique_id)[unique_id]

    def _mapping_of(self, unique_id: str) -> Any:
        for name in ("nodes", "unit_tests", "sources", "saved_queries", "exposures", "functions"):
            mapping = getattr(self.manifest, name, {})
            if unique_id in mapping:
                return mapping
        raise KeyError(unique_id)


def build_run_state(
    run_id: str, flags: Flags, config: RuntimeConfig, context: Context, console: Flags | None = None
) -> RunState:
    """Create the state of a run, with dbt's task for the command of `flags`.

    Args:
        console: see `RunState`; defaults to `flags`.
    """
    manifest = manifest_for_run(context.manifest)
    task = _sharing_graph(TASKS[str(flags.WHICH)])(flags, config, manifest)
    task.catalogs = context.catalogs
    task.relay_graphs = context.graphs
    connections = context.adapter.connections
    # the query comment may contain the invocation id, so each run has its own
    connections.profile = config
    connections.set_query_header(generate_query_header_context(config, manifest))
    return RunState(
        run_id=run_id, flags=flags, console=console or flags, config=config, context=context, manifest=manifest, task=task,
        recorder=CacheRecorder(context.adapter), query_header=connections.query_header,
    )  # fmt: skip


@functools.cache
def _sharing_graph(base: type[RunTask]) -> Any:
    """dbt's task class, which links the graph once per context: nodes and edges depend on the parse only."""

    class GraphSharingTask(base):  # type: ignore[valid-type, misc]
        relay_graphs: dict[bool, LinkedGraph]
        graph: Any

        def compile_manifest(self) -> None:
            of_build = issubclass(base, BuildTask)
            target = self.config.project_target_path
            known = self.relay_graphs.get(of_build)
            if known is None or not known.write(target):
                super().compile_manifest()
                self.relay_graphs[of_build] = linked_by_dbt(self.graph, target)
                return
            self.graph = known.graph
            print_compile_stats(_generate_stats(self.manifest, *self._counted()))

        def _counted(self) -> tuple[Any, ...]:
            """Further arguments of dbt's statistics: the catalogs, dbt-core >= 1.12."""
            return (self.catalogs,) if "catalogs" in signature(_generate_stats).parameters else ()

    GraphSharingTask.__name__ = base.__name__
    return GraphSharingTask
