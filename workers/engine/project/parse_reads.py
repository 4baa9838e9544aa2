"""What a parse looked at: which vars, and what else of an invocation, each file and each entry of a YAML file read.

dbt's parser asks for a var in one way only, by the mapping of ``--vars``, so a mapping that notes who looks into
it (`watched`) misses nobody: templates, macros that they call, YAML, hooks. Everything else that differs from
one invocation to the next and that a template can name is noted where Jinja resolves names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2.runtime
import msgspec
from dbt.config.runtime import RuntimeConfig
from dbt_common.clients.jinja import MacroFuzzEnvironment

from workers.engine.project.parse_messages import CHECKS, Listener, Warnings
from workers.engine.project.parse_units import NOBODY, PROJECT, Unit
from workers.engine.project.recorded_vars import EVERYTHING, WatchedVars

VOLATILE = frozenset(
    {"builtins", "context", "dbt_metadata_envs", "flags", "graph", "invocation_args_dict", "invocation_id", "lipsum",
     "modules", "run_started_at", "selected_resources", "thread_id"}
)  # fmt: skip
"""Names by which a template gets at more than its project, profile, vars and environment."""

OF_THE_NODE = frozenset({"alias", "database", "model", "name", "schema", "this"})
"""Names by which a template gets at its own node, which is not the same before and after it was parsed."""

_ATTRIBUTES_OF_THE_NODE = frozenset({"model", "node", "context", "context_config"})
"""Likewise, of what dbt gives to templates: ``config.model``."""

_NOTED = VOLATILE | OF_THE_NODE
_FOUND = ("refs", "sources", "metrics", "functions", "depends_on")
"""What rendering a node's code leaves at the node."""

_Instead = list[tuple[Any, Any]]
"""Classes of dbt's, and what stands for their method of the same name."""


class ChangedFileError(Exception):
    """A file is no longer what was parsed."""


class Seen(msgspec.Struct):
    """What a unit looked at.

    Attributes:
        vars, names: while its code was rendered; `late` likewise once its config was known (names of relations, hooks).
        outputs: digests of what rendering gave, one a node, where it looked at anything.
    """

    unit: Unit
    vars: set[str] = msgspec.field(default_factory=set)
    names: set[str] = msgspec.field(default_factory=set)
    late: set[str] = msgspec.field(default_factory=set)
    late_names: set[str] = msgspec.field(default_factory=set)
    outputs: list[str] = msgspec.field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether it looked at anything that may differ the next time."""
        return bool(self.vars or self.late or (self.names | self.late_names) & VOLATILE)


class Recorder:
    """Notes who reads what. One parse at a time; dbt parses in one thread.

    Attributes:
        whole: whether dbt parsed all of the project (and not what changed since its partial parse file).
        entered: the units that were parsed.
        warned: what dbt and templates said meanwhile.
        places: where each node, source, … was met first; where it was enabled, if it ever was.
    """

    def __init__(self) -> None:
        self.seen: dict[Unit, Seen] = {}
        self.entered: set[Unit] = set()
        self.whole = False
        self.warned = Listener()
        self.places: dict[str, int] = {}
        self._enabled: set[str] = set()
        self._counted = itertools.count()
        self._unit = PROJECT
        self._late = False
        self._calls: list[str] = []

    def units(self) -> list[Seen]:
        """Whoever looked at anything."""
        return [seen for seen in self.seen.values() if seen.anything and seen.unit != NOBODY]

    def warnings(self) -> Warnings:
        """What was said."""
        volatile = [seen.unit for seen in self.seen.values() if (seen.names | seen.late_names) & VOLATILE]
        return self.warned.warnings((seen.unit for seen in self.units()), volatile)

    def met(self, unique_id: str, *, enabled: bool) -> None:
        """A node, source, … is added to the manifest, or to what is disabled of it."""
        if unique_id in self._enabled or (not enabled and unique_id in self.places):
            return
        self.places[unique_id] = next(self._counted)
        if enabled:
            self._enabled.add(unique_id)

    @property
    def order(self) -> list[str]:
        """Unique ids in the order of their places."""
        return sorted(self.places, key=self.places.__getitem__)

    def var(self, name: str) -> None:
        """A var was read, or asked for."""
        seen = self._current()
        (seen.late if self._late else seen.vars).add(name)

    def name(self, name: str) -> None:
        """A template named something of the invocation or of its node."""
        seen = self._current()
        (seen.late_names if self._late else seen.names).add(name)

    def called(self, what: Any) -> None:
        """A template called ``config()``."""
        self._calls.append(repr(what))

    def rendered(self, node: Any) -> None:
        """The code of a node of the unit is rendered, and the rest of its parse is made of what that gave."""
        seen = self.seen.get(self._unit)
        rendering = self._unit.node or not self._unit.key
        if seen is not None and rendering and self._unit != PROJECT and (seen.vars or seen.names & VOLATILE):
            found = [getattr(node, name, None) for name in _FOUND]
            seen.outputs.append(_hash(repr((node.unique_id, found, self._calls))))
        self._calls.clear()

    @contextlib.contextmanager
    def within(self, unit: Unit, *, late: bool = False) -> Iterator[None]:
        """What is read within is `unit`'s."""
        before = self._unit, self._late
        self.entered.add(unit)
        if not late:
            self._calls.clear()
        self._unit, self._late = unit, late
        self.warned.turn_to(unit, late)
        try:
            yield
        finally:
            self._unit, self._late = before
            self.warned.return_to(*before)

    @contextlib.contextmanager
    def late(self) -> Iterator[None]:
        """What is read within is the current unit's, after it was rendered."""
        with self.within(self._unit, late=True):
            yield

    @contextlib.contextmanager
    def within_test(self, unique_id: str) -> Iterator[None]:
        """What is read within is a generic test's, of the entry that the recorder is at."""
        entry = self._unit
        unit = entry if entry == PROJECT else Unit(entry.file, entry.key, entry.name, unique_id)
        with self.within(unit):  # and without the config() that its builder called
            yield

    def turn_to(self, unit: Unit) -> None:
        """What is read from here on is `unit`'s, to the end of what it is `within`."""
        self.entered.add(unit)
        self._unit = unit
        self.warned.turn_to(unit, self._late)

    def _current(self) -> Seen:
        seen = self.seen.get(self._unit)
        if seen is None:
            seen = self.seen[self._unit] = Seen(self._unit)
        return seen


@contextlib.contextmanager
def watching(config: RuntimeConfig, recorder: Recorder) -> Iterator[None]:
    """Tell `recorder` what dbt reads while it parses the project of `config` within."""
    projects = {id(project): project for project in (config, *config.load_dependencies().values())}
    plain = config.cli_vars
    watched = WatchedVars(plain, recorder.var)
    for project in projects.values():
        project.cli_vars = watched
    try:
        with _instrumented(recorder):
            yield
    finally:
        for project in projects.values():
            project.cli_vars = plain


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _instrumented(recorder: Recorder) -> Iterator[None]:
    """dbt's parser, saying which unit it is at."""

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
        with recorder.within(NOBODY):  # the vars' digest, by which dbt decides on a partial parse
            return original(loader)

    def parse_node(original: Any, parser: Any, block: Any) -> Any:
        with recorder.within(Unit(block.file.file_id)):
            return original(parser, block)

    def parse_file(original: Any, parser: Any, block: Any, dct: Any = None) -> Any:
        with recorder.within(PROJECT):
            return original(parser, block, dct=dct)

    def render_entry(original: Any, reader: Any, entry: Any) -> Any:
        recorder.turn_to(_entry(reader.yaml.file.file_id, reader.key, entry.get("name")))
        return original(reader, entry)

    return [
        (ManifestLoader, load), (ManifestLoader, build_manifest_state_check), (ConfiguredParser, parse_node),
        (SchemaParser, parse_file), (YamlReader, render_entry),
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


_DESCRIBED = {"model": "models", "seed": "seeds", "snapshot": "snapshots", "analysis": "analyses"}
"""Kinds of nodes that an entry of a YAML file describes, and its key."""


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
            with recorder.within(_description(node), late=True):
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
    """An attribute of a class or module is another within."""
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
    """An entry that has a name that dbt's partial parsing finds it by."""
    return Unit(file, key, name) if isinstance(name, str) and "{" not in name else PROJECT


def touched(read: Iterable[str], changed: set[str]) -> bool:
    """Whether any of the names that were read is among the changed ones."""
    return any(name == EVERYTHING or name in changed for name in read)
