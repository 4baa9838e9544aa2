"""Builds the macro namespaces of a context from a layout that is computed once per manifest.

dbt sorts all macros of a project (about 500, most of them dbt's own) into the namespaces of each context: about a dozen
times around one model. Their order depends only on the manifest and on the node's package, so it is kept with the parsed
manifest. A context gets its own macro generators, as in dbt, but only for macros that are looked up in it.
"""

from __future__ import annotations

from typing import Any

from dbt.clients.jinja import MacroGenerator
from dbt.context.macros import MacroNamespace, MacroNamespaceBuilder
from dbt.contracts.graph.nodes import Macro

from workers.engine.patches.frozen_macros import FrozenMacros
from workers.engine.patches.lazy_dict import LazyDict

_PARTS = ("global_namespace", "local_namespace", "global_project_namespace")


class _Layout:
    """Which macro each name of each namespace refers to, as dbt's own builder decides.

    Attributes:
        macros: all macros.
        parts: for each namespace of `_PARTS`, the index in `macros` by name.
        packages: the same for each package.
        names: for each name that dbt copies from the namespaces into a context: an index, the name of a package, or
            `_INTERNAL` (dbt's own macros).
        contexts: the entries of each kind of context (`rendering.Contents`).
    """

    def __init__(self, made: MacroNamespace) -> None:
        places: dict[int, int] = {}
        self.macros: list[Macro] = []
        self.contexts: dict[Any, Any] = {}

        def place(generator: Any) -> int:
            known = places.get(id(generator))
            if known is None:
                known = places[id(generator)] = len(self.macros)
                self.macros.append(generator.macro)
            return known

        def of(namespace: dict[str, Any]) -> dict[str, int]:
            return {name: place(generator) for name, generator in namespace.items()}

        self.parts = [of(getattr(made, part)) for part in _PARTS]
        self.packages = {name: of(namespace) for name, namespace in made.packages.items()}
        self.names: dict[str, int | str] = {}
        for name, found in made.items():
            if isinstance(found, MacroGenerator):
                self.names[name] = place(found)
            else:
                self.names[name] = _INTERNAL if found is made.global_project_namespace else name

    def namespace(self, builder: MacroNamespaceBuilder, ctx: dict[str, Any]) -> Namespace:
        return Namespace(self, builder, ctx)


_INTERNAL = ""


class Namespace(MacroNamespace):
    """dbt's namespace, which creates a macro's generator when the macro is looked up."""

    def __init__(self, layout: _Layout, builder: MacroNamespaceBuilder, ctx: dict[str, Any]) -> None:
        self.layout = layout
        macros, node, stack = layout.macros, builder.node, builder.thread_ctx
        made: dict[int, MacroGenerator] = {}

        def generator(place: int) -> MacroGenerator:
            known = made.get(place)
            if known is None:
                known = made[place] = MacroGenerator(macros[place], ctx, node, stack)
            return known

        self.generator = generator
        roots, local, internal = (LazyDict(part, generator) for part in layout.parts)
        packages: Any = {package: LazyDict(names, generator) for package, names in layout.packages.items()}
        super().__init__(roots, local, internal, packages)

    def of_context(self, what: int | str) -> Any:
        """The entry of a context for a value of `_Layout.names`."""
        if type(what) is int:
            return self.generator(what)
        return self.global_project_namespace if what == _INTERNAL else self.packages[str(what)]


_dbt_build_namespace = MacroNamespaceBuilder.build_namespace


def layout_of(builder: MacroNamespaceBuilder, macros_by_package: Any) -> _Layout | None:
    """The layout of a builder's namespaces; None where the macros may change (`frozen_macros`)."""
    if not isinstance(macros_by_package, FrozenMacros):
        return None
    key = (builder.root_package, builder.search_package, tuple(builder.internal_package_names_order))
    layout = macros_by_package.layouts.get(key)
    if layout is None:
        fresh = MacroNamespaceBuilder(
            builder.root_package, builder.search_package, builder.thread_ctx,
            builder.internal_package_names_order,
        )  # fmt: skip
        layout = macros_by_package.layouts[key] = _Layout(_dbt_build_namespace(fresh, macros_by_package, {}))
    return layout


def build_namespace(
    builder: MacroNamespaceBuilder, macros_by_package: dict[str, dict[str, Macro]], ctx: dict[str, Any]
) -> MacroNamespace:
    """Build the namespaces from a layout where the macros cannot change."""
    layout = layout_of(builder, macros_by_package)
    if layout is None:
        return _dbt_build_namespace(builder, macros_by_package, ctx)
    return layout.namespace(builder, ctx)
