"""Every function of dbt and its libraries that a worker replaces, with the reason.

`CATALOG` lists replacements for speed, `NEEDED` those that correct results depend on.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """A function that is replaced for speed, or a shortcut around one.

    It is left out where the installed source is not one that was tested.

    Attributes:
        name: what ``DBT_RELAY_PATCHES`` and the log call it.
        target: the function that is replaced: module, colon, name. Empty for a shortcut: code of the engine that
            asks `registry.enabled`.
        replacement: the function of ours that takes its place, in the same form.
        repeats: other functions and classes of dbt whose behaviour ours repeats or relies on.
        reason: why.
        saving: measured CPU time, in percent of a step without this one patch (``scripts/patch_savings.py``): of a small
            model or generic test on DuckDB, unless it names another step.
        before: the first release of dbt-core, major and minor, that does not need it.
    """

    name: str
    reason: str
    target: str = ""
    replacement: str = ""
    repeats: tuple[str, ...] = ()
    saving: str = ""
    before: tuple[int, int] | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Everything of dbt that the patch was tested with."""
        return (self.target, *self.repeats) if self.target else self.repeats


_OURS = "workers.engine.patches"
_MANIFEST_CONTEXT = "dbt.context.manifest:ManifestContext"
_MACRO_CONTEXT = (
    f"{_MANIFEST_CONTEXT}._get_namespace_builder", "dbt.context.base:BaseContext.to_dict",
    "dbt.context.base:BaseContext.generate_builtins", "dbt.context.base:ContextMeta",
    "dbt.context.macros:MacroNamespaceBuilder", "dbt.context.macros:MacroNamespace",
)  # fmt: skip

_LOADER = "dbt.parser.manifest:ManifestLoader"
_MANIFEST = "dbt.contracts.graph.manifest:Manifest"
_PARSER = (
    # where a parse begins, decides whether it is partial, and ends
    "dbt.cli.requires:setup_manifest", f"{_LOADER}.load", f"{_LOADER}.build_manifest_state_check",
    f"{_LOADER}.is_partial_parsable", f"{_LOADER}.read_manifest_for_partial_parse",
    f"{_LOADER}.write_manifest_for_partial_parse", f"{_LOADER}.safe_update_project_parser_files_partially",
    f"{_LOADER}.parse_project", f"{_LOADER}.save_macros_to_adapter",
    *(f"dbt.parser.partial:PartialParsing.{name}" for name in (
        "build_env_vars_to_files", "handle_schema_file_changes", "delete_schema_data_test_patch",
    )),
    # files, entries of YAML files, nodes, tests, hooks
    "dbt.parser.read_files:load_source_file", "dbt.parser.base:ConfiguredParser", "dbt.parser.hooks:HookParser",
    "dbt.parser.snapshots:SnapshotParser._create_parsetime_node", "dbt.parser.sources:SourcePatcher.parse_source",
    "dbt.parser.schemas:SchemaParser.parse_file", "dbt.parser.schemas:YamlReader",
    "dbt.parser.schema_generic_tests:SchemaGenericTestParser",
    # what looks at vars, and at a node's config
    "dbt.context.base:Var", "dbt.context.context_config:ContextConfig", "dbt.context.context_config:RenderedConfig",
    "dbt.context.context_config:fqn_search",
    "dbt.context.providers:generate_test_context", "dbt.clients.jinja:add_rendered_test_kwargs",
    "dbt.clients.jinja:get_rendered", "jinja2.runtime:Context.resolve_or_missing",
    "jinja2.sandbox:SandboxedEnvironment.getattr", "jinja2.sandbox:SandboxedEnvironment.getitem",
    # what a parse adds to the manifest, and links in it
    *(f"{_MANIFEST}.{name}" for name in (
        "add_node_nofile", "add_disabled_nofile", "add_source", "add_exposure", "add_unit_test",
        "build_parent_and_child_maps", "build_flat_graph",
    )),
    f"{_LOADER}.process_refs", f"{_LOADER}.process_sources", f"{_LOADER}.process_docs",
    *(f"dbt.parser.manifest:{name}" for name in (
        "_process_refs", "_process_sources_for_node", "_process_sources_for_exposure",
        "_process_docs_for_node", "_process_docs_for_source", "_process_docs_for_exposure",
    )),
    # what dbt warns of
    "dbt.deprecations:DBTDeprecation.show", "dbt.deprecations:warn",
    "dbt_common.events.event_manager:EventManager.fire_event",
)  # fmt: skip
"""What `project.partial_reparse` and its neighbours call, wrap or repeat of dbt's parser."""

CATALOG: Final = (
    Patch(
        name="events", target="dbt_common.events.base_types:BaseEvent.__init__",
        replacement=f"{_OURS}.events:make_event",
        reason="dbt makes the protobuf message of each event by way of JSON",
        saving="9 % of a model, 10 % of a test",
    ),
    Patch(
        name="debug-events", repeats=("dbt_common.events.event_manager:EventManager.fire_event",),
        reason="dbt makes a message of each debug event, though no logger or callback wants it",
        saving="22 % of a model, 17 % of a test",
    ),
    Patch(
        name="templates", target="dbt_common.clients.jinja:MacroFuzzEnvironment.compile",
        replacement=f"{_OURS}.templates:compile_template",
        repeats=(
            "dbt_common.clients.jinja:MacroFuzzEnvironment", "dbt_common.clients.jinja:NativeSandboxEnvironment",
        ),
        reason="dbt compiles the template of a model in each run",
        saving="5 % of a model",
    ),
    Patch(
        name="vars", target="dbt.context.base:Var.get_rendered_var", replacement=f"{_OURS}.templates:rendered_var",
        repeats=("dbt.clients.jinja:get_rendered",), before=(1, 12),
        reason="dbt copies the whole context to render the text of a var",
        saving="7 % of a model that reads one var",
    ),
    Patch(
        name="empty-tables", target="dbt_common.clients.agate_helper:empty_table",
        replacement=f"{_OURS}.tables:empty_table",
        reason="agate makes all of its type tests for the table of each statement that returns no rows",
        saving="4 % of a model",
    ),
    Patch(
        name="date-constants", target="parsedatetime:Constants", replacement=f"{_OURS}.tables:constants",
        reason="agate makes the constants of parsedatetime for each type of each table",
        saving="4 % of a model",
    ),
    Patch(
        name="secrets", target="dbt_common.exceptions.base:env_secrets",
        replacement=f"{_OURS}.secrets:env_secrets",
        reason="dbt looks through the environment for each exception, and uses exceptions to find macros",
        saving="3 % of a model",
    ),
    Patch(
        name="cached-relations", repeats=("dbt.adapters.cache:RelationsCache", "dbt.adapters.cache:_CachedRelation"),
        reason="dbt folds the names of all cached relations in each look-up",
        saving="28 % of a model in a schema of 1,000 tables",
    ),
    Patch(
        name="cache-additions", target="dbt.adapters.cache:RelationsCache.add",
        replacement=f"{_OURS}.relations:add", repeats=("dbt.adapters.cache:RelationsCache._setdefault",),
        reason="dbt makes an event of each relation of a schema, shown with --log-cache-events only",
        saving="6 % of a start step in a schema of 1,000 tables",
    ),
    Patch(
        name="cache-schemas", target="dbt.adapters.base:BaseAdapter._get_cache_schemas",
        replacement=f"{_OURS}.relations:get_cache_schemas",
        repeats=("dbt.adapters.base:BaseRelation.create_from", "dbt.adapters.base:BaseRelation.without_identifier"),
        reason="dbt makes a relation of each node of the project to learn its schema",
        saving="8 % of a start step in a project of 200 models",
    ),
    Patch(
        name="relations", target="dbt.adapters.base:BaseAdapter.get_relation",
        replacement=f"{_OURS}.relations:get_relation",
        repeats=("dbt.adapters.base:BaseAdapter.list_relations", "dbt.adapters.cache:RelationsCache.get_relations"),
        reason="dbt lists all relations of a schema to find one of them",
        saving="22 % of a model in a schema of 1,000 tables",
    ),
    Patch(
        name="selected-graph", target="dbt.graph:Graph.get_subset_graph", replacement=f"{_OURS}.graph:get_subset_graph",
        reason="dbt takes the unselected nodes out of a copy of the graph, one after another",
        saving="8 % of the plan of one model in a project of 80 models; 92 ms in a chain of 600 models",
    ),
    Patch(
        name="namespaces", target=f"{_MANIFEST_CONTEXT}._build_namespace",
        replacement=f"{_OURS}.rendering:build_namespace", repeats=_MACRO_CONTEXT, before=(1, 12),
        reason="dbt makes a generator of every macro in each context",
        saving="36 % of a model, 30 % of a test (the same as `contexts`: neither saves without the other)",
    ),
    Patch(
        name="contexts", target=f"{_MANIFEST_CONTEXT}.to_dict", replacement=f"{_OURS}.rendering:to_dict",
        repeats=_MACRO_CONTEXT, before=(1, 12),
        reason="dbt makes every entry of each context, few of which a template looks at",
        saving="34 % of a model, 27 % of a test (the same as `namespaces`)",
    ),
    Patch(
        name="native-templates", target="dbt_common.clients.jinja:NativeSandboxTemplate.new_context",
        replacement=f"{_OURS}.rendering:new_context",
        repeats=("jinja2.runtime:new_context", "dbt_common.clients.jinja:NativeSandboxTemplate"),
        reason="Jinja copies the context of each generic test",
        saving="18 % of a test",
    ),
    Patch(
        name="changed-vars",
        repeats=_PARSER,
        reason="dbt parses the whole project when --vars differ; the engine keeps what read no changed var",
        saving="89 % of a plan with another var, in a project of 200 models and 400 tests",
    ),
)  # fmt: skip


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """A replacement that correct results depend on. ``DBT_RELAY_PATCHES`` does not turn it off.

    Attributes:
        targets: the functions that are replaced: module, colon, name.
        install: our function that replaces them, in the same form. It may be called more than once.
        when: `BEFORE_DBT`, `AT_START` or `WITH_ADAPTER`.
        reason: why.
        check: what happens where the replacement cannot be put in place.
    """

    name: str
    targets: tuple[str, ...]
    install: str
    when: str
    reason: str
    check: str


BEFORE_DBT: Final = "before dbt is imported"
AT_START: Final = "when a worker starts"
WITH_ADAPTER: Final = "when an adapter is made, which imports its driver"

_REFUSED = "`self_check` refuses this release of dbt when the worker starts"

NEEDED: Final = (
    Needed(
        name="thread-locks", targets=("dbt.mp_context:_MP_CONTEXT",), when=BEFORE_DBT,
        install="workers.engine.caller.thread_locks:install",
        reason="dbt's locks are of processes: each worker process would start a resource tracker",
        check="dbt's own locks stay, which are correct, and the worker logs it",
    ),
    Needed(
        name="env-file", targets=("dbt.cli.main:load_dotenv",), when=BEFORE_DBT,
        install="workers.engine.caller.env_file:import_dbt",
        reason="dbt-core 1.12 reads a .env file of the worker's folder, for every run, when it is imported",
        check="the worker does not start where dbt has read such a file; before 1.12 there is none to read",
    ),
    Needed(
        name="template-changes", when=AT_START,
        targets=("dbt_common.clients.jinja:MacroFuzzEnvironment.call", "jinja2.utils:Namespace.__setitem__"),
        install="workers.engine.template_state.calls:install",
        reason="what a template changes and later nodes see has to reach the processes of those nodes",
        check=_REFUSED,
    ),
    Needed(
        name="node-files", targets=("dbt.contracts.graph.nodes:write_file",), when=AT_START,
        install=f"{_OURS}.node_files:install",
        reason="dbt empties a file of target/ before it writes it: a process that is killed there leaves it empty",
        check=_REFUSED,
    ),
    Needed(
        name="duckdb-connections", targets=("duckdb:connect",), when=WITH_ADAPTER,
        install="workers.engine.warehouse.duckdb_connections:install",
        reason="a DuckDB file stays locked until every connection of the process is closed, also those that dbt lost",
        check="does nothing where `duckdb` is not imported",
    ),
)  # fmt: skip
