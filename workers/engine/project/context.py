"""A warm project: parsed manifest, configuration and adapter, keyed so that it can never be stale.

The key of a context is a hash of all that a parse reads: dbt's version, the project's and its
packages' files, profile, target, vars, the environment values that the last parse of the same family
looked at (dbt records them), and dbt's flags where the project reads those while parsing. Two equal
keys mean equal manifests, so processes share them (`spec.SharedContexts`) and a run names its
manifest by the key.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from contextlib import nullcontext, suppress
from typing import Any

import msgspec
from dbt.adapters.factory import FACTORY, register_adapter
from dbt.cli import requires
from dbt.cli.flags import Flags
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.mp_context import get_mp_context

from workers.contract.log import log
from workers.contract.redis_values import text_of, unpack
from workers.engine.caller.missing_environment import current_environment
from workers.engine.interface import RunSpec, SharedContexts
from workers.engine.patches.frozen_macros import freeze_macros
from workers.engine.patches.registry import enabled
from workers.engine.project.configuration import check_manifest, read_configuration, without_warnings
from workers.engine.project.graph_files import LinkedGraph
from workers.engine.project.keys import ReadSet, family_of, key_of, read_set_of
from workers.engine.project.manifest_file import ManifestFile
from workers.engine.project.packing import pack, packed, uncollected, unpacked
from workers.engine.project.parse_messages import Warnings
from workers.engine.project.parse_reads import Recorder, watching
from workers.engine.project.partial_reparse import Base, aside, digests, project_digest, reparse, say
from workers.engine.project.shared_containers import copy_shared_containers
from workers.engine.template_state.state import GraphIndex
from workers.engine.warehouse.fencing import FencedAdapters, require_fence

_CHANGED_VARS = "changed-vars"


class ProjectMismatchError(Exception):
    """The project's files on this machine are not those that the run was planned with."""


class Known(msgspec.Struct, frozen=True):
    """The latest parse of a project, for other var sets. `but_vars`: the key it would have without its vars."""

    base: Base
    read: ReadSet
    but_vars: str


class Context(msgspec.Struct, kw_only=True):
    """A parsed project in this process. `manifest` is never changed: runs work on views of it.

    Attributes:
        manifest_file: its manifest.json, kept in pieces.
        graph_index: of its `graph`.
        config: configuration of an invocation of the same key, where reading it warned of nothing.
        names: environment values that dbt looked up for `config`.
        graphs: dbt's graph of the manifest, without and with the edges of a build.
        semantic_manifest: what dbt writes of it, which no run changes.
        catalogs: of ``catalogs.yml``, where dbt hands them to its tasks (dbt-core >= 1.12).
        nothing_to_say: whether dbt's checks in each invocation warned of nothing.
        parsed_as: key of the context that the manifest was parsed for: this one, or one with other vars.
    """

    key: str
    parsed_as: str
    manifest: Manifest
    adapter: Any
    manifest_file: ManifestFile
    graph_index: GraphIndex
    config: RuntimeConfig | None = None
    names: frozenset[str] = frozenset()
    graphs: dict[bool, LinkedGraph] = msgspec.field(default_factory=dict)
    semantic_manifest: bytes | None = None
    catalogs: Any = None
    nothing_to_say: bool = False

    def use_adapter(self) -> None:
        """Make the context's adapter the one that dbt finds."""
        FACTORY.adapters = {self.adapter.type(): self.adapter}


class ContextStore:
    """The contexts of this process, the latest used last."""

    def __init__(self, shared: SharedContexts, capacity: int = 8) -> None:
        self._shared = shared
        self._capacity = capacity
        self._contexts: OrderedDict[str, Context] = OrderedDict()

    def open(self, spec: RunSpec, click_context: Any, flags: Flags) -> tuple[Context, RuntimeConfig]:
        """The context that the project's files, as they are now, stand for.

        Raises:
            dbt's own errors: a project, profile or parse that dbt refuses.
        """
        family, bare = family_of(flags, spec), family_of(flags, spec, with_vars=False)
        found = self._find(family, spec, flags)
        again = None
        if found is not None and self._parses_in_dbt(family, bare, flags):
            again = self._warnings(found.key, bare)
            if again is None or again.of_this_time:
                found = None
        config = self._config(found, click_context, flags)
        if found is None:
            found = self._reparse(family, spec, click_context, flags, config)
            found = found or self._parse(family, spec, click_context, flags, config)
        else:
            self._adopt(found, click_context, config)
            if again is not None:
                again.again()
            if not found.nothing_to_say:
                found.nothing_to_say = without_warnings(lambda: check_manifest(found.manifest, config))
        self._shared.save_index(_LAST + bare, family.encode())
        self._keep(found, click_context)
        return found, config

    def attach(
        self, spec: RunSpec, click_context: Any, flags: Flags, key: str
    ) -> tuple[Context, RuntimeConfig]:
        """The context that a run was planned with.

        Raises:
            ProjectMismatchError: it is not kept anywhere, and the files here give another one.
        """
        context = self._contexts.get(key) or self._unpack(key)
        config = self._config(context, click_context, flags)
        if context is None:
            context = self._parse(family_of(flags, spec), spec, click_context, flags, config)
            if context.key != key:
                raise ProjectMismatchError(
                    f"the dbt project at {spec.project_dir} on this worker is not the one that the "
                    "run was planned with (files, packages, profile or environment differ)"
                )
        elif context.adapter is None:
            self._adopt(context, click_context, config)
        else:
            context.use_adapter()
        self._keep(context, click_context)
        return context, config

    def _find(self, family: str, spec: RunSpec, flags: Flags) -> Context | None:
        raw = self._shared.index(family)
        if raw is None:
            return None
        try:
            read = msgspec.json.decode(raw, type=ReadSet)
        except msgspec.DecodeError:
            return None
        key = key_of(family, read, spec, flags)
        found = self._contexts.get(key) or self._unpack(key)
        if found is not None:
            current_environment().record_lookup(read.env)  # as the parse did that is used again
        return found

    def _unpack(self, key: str) -> Context | None:
        packed = self._shared.load(key)
        if packed is None:
            return self._unpack_same(key)
        try:
            manifest = unpacked(unpack(packed))
        except Exception as error:  # noqa: BLE001 - whatever is stored there, the project can be parsed
            log(
                "a stored manifest is not readable, the project is parsed",
                context=key,
                error=str(error)[:200],
            )
            return None
        manifest.build_flat_graph()
        freeze_macros(manifest)
        return Context(
            key=key, parsed_as=key, manifest=manifest, adapter=None,
            manifest_file=ManifestFile(manifest), graph_index=GraphIndex(manifest.flat_graph),
        )  # fmt: skip

    def _unpack_same(self, key: str) -> Context | None:
        """A context whose manifest was parsed with other vars."""
        parsed_as = text_of(self._shared.index(_SAME + key))
        if not parsed_as:
            return None
        found = next((each for each in self._contexts.values() if each.parsed_as == parsed_as), None)
        found = found or self._unpack(parsed_as)
        return None if found is None else _with_other_vars(found, key)

    def _config(self, context: Context | None, click_context: Any, flags: Flags) -> RuntimeConfig:
        """The configuration of an invocation; what an equal key gave before is given again."""
        if context is not None and context.config is not None:
            current_environment().record_lookup(context.names)
            # the key covers every file and value that it was read from; flags are the caller's own
            config = copy.copy(context.config)
            config.args = flags
            return config
        read: list[RuntimeConfig] = []
        quiet = without_warnings(lambda: read.append(read_configuration(click_context)))
        if context is not None and quiet:
            context.config, context.names = read[0], frozenset(current_environment().seen)
        return read[0]

    def _adopt(self, context: Context, click_context: Any, config: RuntimeConfig) -> None:
        """Register adapter, macros and query header for a manifest that was parsed before."""
        if context.adapter is not None:
            context.use_adapter()
            register_adapter(config, get_mp_context())  # it is: this says so, as dbt does
            return
        click_context.obj["manifest"] = context.manifest
        requires.setup_manifest(click_context, write=False)
        context.adapter = _fenced_adapter(config)

    def _parse(
        self, family: str, spec: RunSpec, click_context: Any, flags: Flags, config: RuntimeConfig
    ) -> Context:
        FACTORY.adapters = FencedAdapters()
        click_context.obj.pop("manifest", None)
        recorder, given = Recorder(), digests(config.cli_vars)
        with watching(config, recorder) if enabled(_CHANGED_VARS) else nullcontext():
            requires.setup_manifest(click_context, write=True)
        manifest: Manifest = click_context.obj["manifest"]
        read = read_set_of(config, manifest, flags)
        current_environment().record_lookup(read.env)  # dbt may have taken files from its partial parse
        context = self._made(key_of(family, read, spec, flags), manifest, config)
        self._shared.save_index(family, msgspec.json.encode(read))
        warned = recorder.warnings()
        if recorder.whole and warned.complete and digests(config.cli_vars) == given:
            self._know(
                Base(key=context.key, vars=given, project=project_digest(config, click_context.obj.get("catalogs")),
                     seen=recorder.units(), warned=warned, order=recorder.order), read, spec, flags,
            )  # fmt: skip
        return context

    def _made(self, key: str, manifest: Manifest, config: RuntimeConfig) -> Context:
        copy_shared_containers(manifest)
        self._shared.save(key, pack(manifest))
        freeze_macros(manifest)
        return Context(
            key=key, parsed_as=key, manifest=manifest, adapter=_fenced_adapter(config),
            manifest_file=ManifestFile(manifest), graph_index=GraphIndex(manifest.flat_graph),
        )  # fmt: skip

    def _know(self, base: Base, read: ReadSet, spec: RunSpec, flags: Flags) -> None:
        """Keep what a parse looked at, for the next var set."""
        bare = family_of(flags, spec, with_vars=False)
        self._shared.save_index(_WARNED + bare + base.key, msgspec.json.encode(base.warned))
        known = Known(base=base, read=read, but_vars=key_of(bare, read, spec, flags))
        self._shared.save_index(bare, msgspec.json.encode(known))

    def _parses_in_dbt(self, family: str, bare: str, flags: Flags) -> bool:
        """Whether dbt would parse a project that did not change: its saved parse is of other vars, or is not used."""
        last = self._shared.index(_LAST + bare)
        return not flags.PARTIAL_PARSE or (last is not None and last != family.encode())

    def _warnings(self, key: str, bare: str) -> Warnings | None:
        """What the parse of a context said."""
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(self._shared.index(_WARNED + bare + key) or b"", type=Warnings)
        return None

    def _reparse(
        self, family: str, spec: RunSpec, click_context: Any, flags: Flags, config: RuntimeConfig
    ) -> Context | None:
        """The context of a project that was parsed with other vars, and nothing else is another."""
        if not enabled(_CHANGED_VARS):
            return None
        bare = family_of(flags, spec, with_vars=False)
        try:
            known = msgspec.json.decode(self._shared.index(bare) or b"", type=Known)
        except msgspec.DecodeError:
            return None
        base, read = known.base, known.read
        if not flags.PARTIAL_PARSE or known.but_vars != key_of(bare, read, spec, flags):
            return None
        parsed = None
        # otherwise dbt_project.yml, a package's or the profile say something else now
        if base.project == project_digest(config, click_context.obj.get("catalogs")):
            parsed = self._contexts.get(base.key) or self._unpack(base.key)
        if parsed is None:
            return None
        context = _with_other_vars(parsed, key_of(family, read, spec, flags))
        with aside() as said:
            self._adopt(context, click_context, config)
        with uncollected():
            found = reparse(
                base, parsed.manifest, click_context, config, lambda: unpacked(packed(parsed.manifest))
            )
        if found is None:
            return None
        say(said)
        found.warned.again()
        if found.same:
            self._shared.save_index(_SAME + context.key, context.parsed_as.encode())
        else:
            read = read_set_of(config, found.manifest, flags)
            context = self._made(key_of(family, read, spec, flags), found.manifest, config)
        context.nothing_to_say = without_warnings(lambda: check_manifest(context.manifest, config))
        current_environment().record_lookup(read.env)
        self._shared.save_index(family, msgspec.json.encode(read))
        self._know(
            Base(key=context.key, vars=digests(config.cli_vars), project=base.project, seen=found.seen,
                 warned=found.warned, order=base.order), read, spec, flags,
        )  # fmt: skip
        return context

    def _keep(self, context: Context, click_context: Any) -> None:
        context.catalogs = click_context.obj.get("catalogs", context.catalogs)
        self._contexts[context.key] = context
        self._contexts.move_to_end(context.key)
        while len(self._contexts) > self._capacity:
            self._contexts.popitem(last=False)


_SAME, _WARNED, _LAST = "same:", "warned:", "last:"


def _with_other_vars(context: Context, key: str) -> Context:
    """A context whose manifest is another's."""
    return Context(
        key=key, parsed_as=context.parsed_as, manifest=context.manifest, adapter=None,
        manifest_file=context.manifest_file, graph_index=context.graph_index, graphs=context.graphs,
        semantic_manifest=context.semantic_manifest,
    )  # fmt: skip


def _fenced_adapter(config: RuntimeConfig) -> Any:
    """The adapter that dbt made.

    Raises:
        DbtUsageError: its connections are not fenced.
    """
    adapter = FACTORY.lookup_adapter(config.credentials.type)
    require_fence(adapter)
    return adapter
