"""Wraps functions of dbt's parser, so that a `Recorder` knows which unit is being parsed and what it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jinja2.runtime
from dbt.config.runtime import RuntimeConfig
from dbt_common.clients.jinja import MacroFuzzEnvironment

from workers.engine.project.config_levels import ConfigLevels
from workers.engine.project.parse_messages import CHECKS
from workers.engine.project.parse_reads import OF_THE_NODE, VOLATILE, Recorder
from workers.engine.project.parse_units import NO_UNIT, PROJECT, Unit
from workers.engine.project.recorded_vars import EVERYTHING, RecordedVars

_ATTRIBUTES_OF_THE_NODE = frozenset({"model", "node", "context", "context_config"})
"""Attributes by which a template can read its own node from other objects: ``config.model``."""

_NOTED = VOLATILE | OF_THE_NODE

_Instead = list[tuple[Any, Any]]
"""Classes and modules of dbt, each with the function that replaces its function of the same name."""


@contextlib.contextmanager
def watching(config: RuntimeConfig, recorder: Recorder) -> Iterator[None]:
    """Record in `recorder` what dbt reads while it parses the project of `config` within."""
    projects = {id(project): project for project in (config, *config.load_dependencies().values())}
    plain = config.cli_vars
    watched = RecordedVars(plain, recorder.var)
    levels = ConfigLevels(config)
    for project in projects.values():
        project.cli_vars = watched
    try:
        with _instrumented(recorder, levels):
            yield
    finally:
        for project in projects.values():
            project.cli_vars = plain


@contextlib.contextmanager
def _instrumented(recorder: Recorder, levels: ConfigLevels) -> Iterator[None]:
    """Wrap dbt's functions within."""

    class Names(jinja2.runtime.Context):
        def resolve_or_missing(self, key: str) -> Any:
            if key in _NOTED:
                recorder.name(key)
            return super().resolve_or_missing(key)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(MacroFuzzEnvironment, "context_class", Names))
        for owner, instead in (
            *_of_files(recorder),
            *_of_nodes(recorder),
            *_of_configs(recorder, levels),
            *_of_sources(recorder),
            *_of_manifests(recorder),
            *_of_templates(recorder),
        ):
            name = instead.__name__.rstrip("_")
            stack.enter_context(replaced(owner, name, _method(instead, getattr(owner, name))))
        yield


def _of_files(recorder: Recorder) -> _Instead:
    # a release whose parser is not known to `patches` may lack some of it
    from dbt.parser.base import ConfiguredParser
    from dbt.parser.manifest import ManifestLoader
    from dbt.parser.schemas import SchemaParser, YamlReader
    from dbt.parser.snapshots import SnapshotParser

    def load(original: Any, loader: Any) -> Any:
        with recorder.warned.listening():
            manifest = original(loader)
        recorder.whole = not (loader.partially_parsing or loader.skip_parsing)
        return manifest

    def checked(name: str) -> tuple[Any, Any]:
        def check(original: Any, loader: Any) -> Any:
            with recorder.warned.paused():
                return original(loader)

        check.__name__ = name
        return ManifestLoader, check

    def build_manifest_state_check(original: Any, loader: Any) -> Any:
        with recorder.within(NO_UNIT):  # dbt's digest of the vars, which decides on a partial parse
            return original(loader)

    def save_macros_to_adapter(original: Any, loader: Any, adapter: Any) -> Any:
        with recorder.within(NO_UNIT):  # renders the query comment, which is no part of the manifest
            return original(loader, adapter)

    def parse_node(original: Any, parser: Any, block: Any) -> Any:
        with recorder.within(Unit(block.file.file_id)):
            return original(parser, block)

    def _create_parsetime_node(original: Any, parser: Any, block: Any, *args: Any, **more: Any) -> Any:
        if len(args) < 4:
            return original(parser, block, *args, **more)
        with recorder.within(_entry(block.file.file_id, "snapshots", args[3]), late=True):
            return original(parser, block, *args, **more)  # of a snapshot that is an entry of a YAML file

    def parse_file(original: Any, parser: Any, block: Any, dct: Any = None) -> Any:
        with recorder.within(PROJECT):
            return original(parser, block, dct=dct)

    def render_entry(original: Any, reader: Any, entry: Any) -> Any:
        recorder.turn_to(_entry(reader.yaml.file.file_id, reader.key, entry.get("name")))
        return original(reader, entry)

    return [
        (ManifestLoader, load), (ManifestLoader, build_manifest_state_check),
        (ManifestLoader, save_macros_to_adapter), (ConfiguredParser, parse_node),
        (SnapshotParser, _create_parsetime_node), (SchemaParser, parse_file), (YamlReader, render_entry),
        *(checked(name) for name in CHECKS if hasattr(ManifestLoader, name)),
    ]  # fmt: skip


def _of_nodes(recorder: Recorder) -> _Instead:
    from dbt.context.context_config import ContextConfig
    from dbt.parser.base import ConfiguredParser
    from dbt.parser.schema_generic_tests import SchemaGenericTestParser

    def parse_generic_test(original: Any, parser: Any, target: Any, *args: Any, **more: Any) -> Any:
        source = getattr(target, "source", None)  # a source's table
        key, name = (source.yaml_key, source.name) if source else (target.yaml_key, target.name)
        with recorder.within(_entry(target.file_id, key, name)):
            return original(parser, target, *args, **more)

    def render_test_update(original: Any, parser: Any, node: Any, *args: Any) -> Any:
        with recorder.within_test(node.unique_id):
            return original(parser, node, *args)

    def update_parsed_node_config(
        original: Any, parser: Any, node: Any, config: Any, *args: Any, **more: Any
    ) -> Any:
        recorder.rendered(node)
        with recorder.late():
            return original(parser, node, config, *args, **more)

    def add_config_call(original: Any, config: Any, options: Any) -> Any:
        recorder.called(options)
        return original(config, options)

    def add_unrendered_config_call(original: Any, config: Any, options: Any) -> Any:
        recorder.called(("unrendered", options))
        return original(config, options)

    return [
        (SchemaGenericTestParser, parse_generic_test), (SchemaGenericTestParser, render_test_update),
        (ConfiguredParser, update_parsed_node_config), (ContextConfig, add_config_call),
        (ContextConfig, add_unrendered_config_call),
    ]  # fmt: skip


def _of_configs(recorder: Recorder, levels: ConfigLevels) -> _Instead:
    from dbt.context import context_config

    def fqn_search(original: Any, section: Any, fqn: Any) -> Any:
        for name in levels.names(section, fqn):
            recorder.level(name)
        return original(section, fqn)

    return [(context_config, fqn_search)]


def _of_sources(recorder: Recorder) -> _Instead:
    from dbt.parser import manifest as loading
    from dbt.parser.sources import SourcePatcher

    def parse_source(original: Any, patcher: Any, target: Any) -> Any:
        with recorder.within(_entry(target.file_id, "sources", target.source.name), late=True):
            return original(patcher, target)

    def _process_sources_for_node(original: Any, manifest: Any, project: Any, node: Any) -> Any:
        entry = recorder.entries.get(node.unique_id)
        if str(node.resource_type) != "test" or not node.sources or entry is None:
            return original(manifest, project, node)
        part = f"sources of {node.unique_id}"
        with recorder.within(entry, late=True, part=part):  # dbt warns of a test of a disabled source
            return original(manifest, project, node)

    return [(SourcePatcher, parse_source), (loading, _process_sources_for_node)]


_DESCRIBED = {
    "model": "models",
    "seed": "seeds",
    "snapshot": "snapshots",
    "analysis": "analyses",
    "test": "data_tests",
}
"""Kinds of nodes that an entry of a YAML file describes, and the key of such entries."""


def _of_manifests(recorder: Recorder) -> _Instead:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser import manifest as loading

    def adding(name: str) -> tuple[Any, Any]:
        def add(original: Any, manifest: Any, *args: Any) -> Any:
            recorder.met(args[-1].unique_id, enabled=name != "add_disabled_nofile")
            return original(manifest, *args)

        add.__name__ = name
        return Manifest, add

    def describing(name: str) -> tuple[Any, Any]:
        def describe(original: Any, context: Any, node: Any, *args: Any) -> Any:
            with recorder.within(_description(node), late=True, part=f"docs of {node.unique_id}"):
                return original(context, node, *args)

        describe.__name__ = name
        return loading, describe

    adds = ("add_node_nofile", "add_disabled_nofile", "add_source", "add_exposure", "add_unit_test")
    describes = ("_process_docs_for_node", "_process_docs_for_source", "_process_docs_for_exposure")
    return [
        *(adding(name) for name in adds if hasattr(Manifest, name)),
        *(describing(name) for name in describes if hasattr(loading, name)),
    ]


def _description(node: Any) -> Unit:
    """The entry that describes a node, source or exposure."""
    kind = str(node.resource_type)
    if kind == "source":
        return _entry(node.file_id, "sources", node.source_name)
    if kind == "exposure":
        return _entry(node.file_id, "exposures", node.name)
    if kind in _DESCRIBED and node.patch_path:
        return _entry(node.patch_path, _DESCRIBED[kind], node.name)
    return PROJECT


def _of_templates(recorder: Recorder) -> _Instead:
    def getattr_(original: Any, environment: Any, value: Any, attribute: Any) -> Any:
        if attribute in _ATTRIBUTES_OF_THE_NODE:
            recorder.name("model")
        elif isinstance(value, RuntimeConfig):  # ``ref.config``: any level of its config may be read
            recorder.var(EVERYTHING)
        return original(environment, value, attribute)

    def getitem(original: Any, environment: Any, value: Any, argument: Any) -> Any:
        if isinstance(argument, str) and argument in _ATTRIBUTES_OF_THE_NODE:
            recorder.name("model")
        return original(environment, value, argument)

    return [
        (MacroFuzzEnvironment, getattr_),
        (MacroFuzzEnvironment, getitem),
    ]


def _method(instead: Any, original: Any) -> Any:
    return lambda self, *args, **more: instead(original, self, *args, **more)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a class or module within."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _entry(file: str, key: str, name: Any) -> Unit:
    """The unit of an entry, or `PROJECT` where dbt's partial parsing cannot find the entry by its name."""
    return Unit(file, key, name) if isinstance(name, str) and "{" not in name else PROJECT
