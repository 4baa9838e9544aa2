"""What dbt renders with, made as far as it is looked at.

A context has some hundred entries and all macros of a project (five hundred of dbt's own), and dbt makes
everything anew four or five times around one node. Here macros, and those entries that are the same whenever
they are made, wait until a template names them (`later`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from dbt.context.manifest import ManifestContext
from dbt.context.providers import MacroContext, ModelContext, OperationProvider, RuntimeProvider
from dbt_common.clients.jinja import NativeSandboxTemplate

from workers.engine.patches.lazy_dict import Later
from workers.engine.patches.macros import Namespace, layout_of
from workers.engine.template_state.calls import note_graph_use

_CONSTANT = frozenset({"exceptions", "flags", "graph", "invocation_args_dict", "modules", "var"})
"""Entries made of nothing that changes while a node executes: its name and package, flags, configuration."""

_KINDS = frozenset({MacroContext, ModelContext})
_PROVIDERS = frozenset({OperationProvider, RuntimeProvider})
"""Contexts of execution. What is asked for while parsing is noted when it is asked for (`reads`)."""


class Contents(msgspec.Struct, frozen=True):
    """What is in a kind of context.

    Attributes:
        members: dbt's own entries that are made at once.
        own: names of all of dbt's own, in its order.
        names: everything, in dbt's order; what waits, with what it is made of.
        shadowed: dbt's own that a macro of the same name stands before.
    """

    members: dict[str, Any]
    own: dict[str, Any]
    names: dict[str, Any]
    shadowed: frozenset[str]


def _contents(context: Any, namespace: Namespace) -> Contents:
    kind = type(context)
    waiting: frozenset[str] = frozenset()
    if kind in _KINDS and type(context.provider) in _PROVIDERS:
        waiting = _CONSTANT
    known: dict[Any, Contents] = namespace.layout.contexts
    found = known.get((kind, waiting))
    if found is None:
        own = {name: (name,) for name in context._context_members_}
        macros = namespace.layout.names
        found = known[kind, waiting] = Contents(
            members={name: made for name, made in context._context_members_.items() if name not in waiting},
            own=own,
            names={"context": (), "builtins": (), **own, **macros},
            shadowed=frozenset(own.keys() & macros.keys()),
        )
    return found


_namespace_of_dbt = ManifestContext._build_namespace
_dict_of_dbt: Callable[[Any], dict[str, Any]] = ManifestContext.to_dict


def build_namespace(self: Any) -> Any:
    builder = self._get_namespace_builder()
    layout = layout_of(builder, self.manifest.get_macros_by_package())
    if layout is None or self._ctx:
        return _namespace_of_dbt(self)
    self._ctx = Later()
    return layout.namespace(builder, self._ctx)


def to_dict(self: Any) -> dict[str, Any]:
    ctx, namespace = self._ctx, self.namespace
    if type(ctx) is not Later or type(namespace) is not Namespace:
        note_graph_use()
        return _dict_of_dbt(self)
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
        self.config.load_dependencies()  # making `var` does, and others rely on that
    # as dbt.context.base.BaseContext.to_dict and generate_builtins
    ctx["context"] = ctx
    own = {
        name: value.__get__(self) if hasattr(value, "__get__") else value
        for name, value in contents.members.items()
    }
    builtins = Later(contents.own, make)
    builtins.update(own)
    ctx["builtins"] = builtins
    ctx.update(own)
    for name in contents.shadowed:
        ctx[name] = namespace.of_context(contents.names[name])
    ctx.wait(contents.names, make)
    return ctx


# -- native templates (arguments of generic tests) -------------------------------------------------

_context_of_jinja: Callable[..., Any] = NativeSandboxTemplate.new_context


def new_context(self: Any, vars: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - Jinja's
    """Jinja renders with a copy of everything (jinja2.runtime.new_context)."""
    maps: list[Any] = getattr(self.globals, "maps", [])
    if type(vars) is not Later or args or kwargs or len(maps) != 2 or maps[0] is not vars:
        return _context_of_jinja(self, vars, *args, **kwargs)
    parent = vars.snapshot()
    for name in maps[1].keys() - parent.names():
        parent[name] = maps[1][name]
    names: Any = parent.names()
    return self.environment.context_class(self.environment, parent, self.name, self.blocks, globals=names)
