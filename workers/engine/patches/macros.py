"""Macro namespaces from a layout that is made once a manifest.

dbt sorts all macros of a project (some five hundred, most of them its own) into the namespaces of each
context that it renders with: about a dozen times around one model. What goes where depends on the
manifest and on the node's package alone, so it is remembered with a parsed manifest; a context gets
generators of its own, as in dbt, which carry its variables: of those macros that are looked for in it.
"""

from __future__ import annotations

from typing import Any

from dbt.clients.jinja import MacroGenerator
from dbt.context.macros import MacroNamespace, MacroNamespaceBuilder
from dbt.contracts.graph.nodes import Macro

from workers.engine.patches.lazy_dict import Later
from workers.engine.patches.unchanging_macros import UnchangingMacros

_PARTS = ("global_namespace", "local_namespace", "global_project_namespace")


class _Layout:
    """Which macro is found under which name of which namespace, as dbt's own builder says.

    Attributes:
        parts: of each namespace, a macro's place in `macros` by name.
        names: of everything that dbt moves from the namespaces into a context: a macro's place, the name of a
            package, or `_INTERNAL`.
        contexts: by kind of context, what is in one (`rendering.Contents`).
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
    """dbt's namespace; a macro's generator is made when the macro is looked for."""

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
        roots, local, internal = (Later(part, generator) for part in layout.parts)
        packages: Any = {package: Later(names, generator) for package, names in layout.packages.items()}
        super().__init__(roots, local, internal, packages)

    def of_context(self, what: int | str) -> Any:
        """What `_Layout.names` says."""
        if type(what) is int:
            return self.generator(what)
        return self.global_project_namespace if what == _INTERNAL else self.packages[str(what)]


_built_by_dbt = MacroNamespaceBuilder.build_namespace


def layout_of(builder: MacroNamespaceBuilder, macros_by_package: Any) -> _Layout | None:
    """The layout of a builder's namespaces, or None where the macros may change."""
    if not isinstance(macros_by_package, UnchangingMacros):
        return None
    key = (builder.root_package, builder.search_package, tuple(builder.internal_package_names_order))
    layout = macros_by_package.layouts.get(key)
    if layout is None:
        fresh = MacroNamespaceBuilder(
            builder.root_package, builder.search_package, builder.thread_ctx,
            builder.internal_package_names_order,
        )  # fmt: skip
        layout = macros_by_package.layouts[key] = _Layout(_built_by_dbt(fresh, macros_by_package, {}))
    return layout


def build_namespace(
    builder: MacroNamespaceBuilder, macros_by_package: dict[str, dict[str, Macro]], ctx: dict[str, Any]
) -> MacroNamespace:
    layout = layout_of(builder, macros_by_package)
    if layout is None:
        return _built_by_dbt(builder, macros_by_package, ctx)
    return layout.namespace(builder, ctx)
