"""Creates the entries of dbt's Jinja contexts when a template looks them up.

A context has about a hundred entries and all macros of a project (500 of dbt's own). dbt creates all of them four or five
times around one node. Here, macros and constant entries are created on their first lookup (`lazy_dict`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from dbt.context.manifest import ManifestContext
from dbt.context.providers import MacroContext, ModelContext, OperationProvider, RuntimeProvider
from dbt_common.clients.jinja import NativeSandboxTemplate

from workers.engine.patches.lazy_dict import LazyDict
from workers.engine.patches.macros import Namespace, layout_of
from workers.engine.template_state.calls import note_graph_use

_CONSTANT = frozenset({"exceptions", "flags", "graph", "invocation_args_dict", "modules", "var"})
"""Entries that depend on nothing that changes while a node executes."""

_KINDS = frozenset({MacroContext, ModelContext})
_PROVIDERS = frozenset({OperationProvider, RuntimeProvider})
"""Providers of contexts for execution. While parsing, the moment of a lookup matters (`project.parse_reads`)."""


class Contents(msgspec.Struct, frozen=True):
    """The entries of a kind of context.

    Attributes:
        members: dbt's entries (all but macros) that are created at once.
        own: names of all of dbt's entries, in dbt's order.
        names: all names, in dbt's order, with what a missing value is created from.
        shadowed: names of dbt's entries that a macro of the same name replaces.
    """

    members: dict[str, Any]
    own: dict[str, Any]
    names: dict[str, Any]
    shadowed: frozenset[str]


def _contents(context: Any, namespace: Namespace) -> Contents:
    kind = type(context)
    lazy: frozenset[str] = frozenset()
    if kind in _KINDS and type(context.provider) in _PROVIDERS:
        lazy = _CONSTANT
    known: dict[Any, Contents] = namespace.layout.contexts
    found = known.get((kind, lazy))
    if found is None:
        own = {name: (name,) for name in context._context_members_}
        macros = namespace.layout.names
        found = known[kind, lazy] = Contents(
            members={name: made for name, made in context._context_members_.items() if name not in lazy},
            own=own,
            names={"context": (), "builtins": (), **own, **macros},
            shadowed=frozenset(own.keys() & macros.keys()),
        )
    return found


_dbt_build_namespace = ManifestContext._build_namespace
_dbt_to_dict: Callable[[Any], dict[str, Any]] = ManifestContext.to_dict


def build_namespace(self: Any) -> Any:
    """Build the namespace from a layout where the macros cannot change (`macros`)."""
    builder = self._get_namespace_builder()
    layout = layout_of(builder, self.manifest.get_macros_by_package())
    if layout is None or self._ctx:
        return _dbt_build_namespace(self)
    self._ctx = LazyDict()
    return layout.namespace(builder, self._ctx)


def to_dict(self: Any) -> dict[str, Any]:
    """Return the context as a `LazyDict` (dbt.context.base.BaseContext.to_dict and generate_builtins)."""
    ctx, namespace = self._ctx, self.namespace
    if type(ctx) is not LazyDict or type(namespace) is not Namespace:
        note_graph_use()
        return _dbt_to_dict(self)
    contents, made = _contents(self, namespace), {}

    def member(name: str) -> Any:
        if name == "graph":
            note_graph_use()
        if name not in made:
            made[name] = self._context_members_[name].__get__(self)
        return made[name]

    def make(what: Any) -> Any:
        return member(what[0]) if type(what) is tuple else namespace.of_context(what)

    if "graph" in contents.members:
        note_graph_use()
    if "var" not in contents.members:
        self.config.load_dependencies()  # creating `var` does so, and other code relies on it
    ctx["context"] = ctx
    own = {
        name: value.__get__(self) if hasattr(value, "__get__") else value
        for name, value in contents.members.items()
    }
    builtins = LazyDict(contents.own, make)
    builtins.update(own)
    ctx["builtins"] = builtins
    ctx.update(own)
    for name in contents.shadowed:
        ctx[name] = namespace.of_context(contents.names[name])
    ctx.defer(contents.names, make)
    return ctx


# -- native templates (arguments of generic tests) -------------------------------------------------

_jinja_new_context: Callable[..., Any] = NativeSandboxTemplate.new_context


def new_context(self: Any, vars: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - Jinja's name
    """Create a context without copying all variables, as Jinja does (jinja2.runtime.new_context)."""
    maps: list[Any] = getattr(self.globals, "maps", [])
    if type(vars) is not LazyDict or args or kwargs or len(maps) != 2 or maps[0] is not vars:
        return _jinja_new_context(self, vars, *args, **kwargs)
    parent = vars.snapshot()
    for name in maps[1].keys() - parent.names():
        parent[name] = maps[1][name]
    names: Any = parent.names()
    return self.environment.context_class(self.environment, parent, self.name, self.blocks, globals=names)
