"""Macro namespaces from a layout that is made once a manifest.

dbt sorts all macros of a project (some five hundred, most of them its own) into the namespaces of each
context that it renders with: about a dozen times around one model. What goes where depends on the
manifest and on the node's package alone, so it is remembered with a parsed manifest; a context gets
generators of its own, as in dbt, which carry its variables.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView
from typing import Any

from dbt.clients.jinja import MacroGenerator
from dbt.context.macros import MacroNamespace, MacroNamespaceBuilder
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro

_PARTS = ("global_namespace", "local_namespace", "global_project_namespace")


class _Layout:
    """Which macro is found under which name of which namespace, as dbt's own builder says."""

    def __init__(self, made: MacroNamespace) -> None:
        places: dict[int, int] = {}
        self.macros: list[Macro] = []

        def place(generator: Any) -> int:
            known = places.get(id(generator))
            if known is None:
                known = places[id(generator)] = len(self.macros)
                self.macros.append(generator.macro)
            return known

        def of(namespace: dict[str, Any]) -> tuple[tuple[str, int], ...]:
            return tuple((name, place(generator)) for name, generator in namespace.items())

        self.parts = [of(getattr(made, part)) for part in _PARTS]
        self.packages = {name: of(namespace) for name, namespace in made.packages.items()}

    def namespace(self, builder: MacroNamespaceBuilder, ctx: dict[str, Any]) -> MacroNamespace:
        node, stack = builder.node, builder.thread_ctx
        made = [_generator(macro, ctx, node, stack) for macro in self.macros]
        parts = [{name: made[place] for name, place in part} for part in self.parts]
        packages = {
            package: {name: made[place] for name, place in names} for package, names in self.packages.items()
        }
        return _Flat(*parts, packages)


def _generator(macro: Macro, context: dict[str, Any], node: Any, stack: Any) -> MacroGenerator:
    made: MacroGenerator = _new(MacroGenerator)
    # as its constructors do, one after another
    made.__dict__ = {"context": context, "macro": macro, "node": node, "stack": stack}
    return made


_new = MacroGenerator.__new__


class _Flat(MacroNamespace):
    """dbt's namespace; what is found under each name is looked up once for all of them."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._flat: dict[str, Any] = {}
        for part in reversed(list(self._search_order())):
            self._flat.update(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._flat)

    def __len__(self) -> int:
        return len(self._flat)

    def __getitem__(self, key: str) -> Any:
        return self._flat[key]

    def __contains__(self, key: object) -> bool:
        return key in self._flat

    def keys(self) -> KeysView[str]:
        return self._flat.keys()


class _Shared(dict[str, dict[str, Macro]]):
    """Macros by package of a manifest that is not going to change, and the layouts that they gave."""

    layouts: dict[tuple[Any, ...], _Layout]


def remember_macros(manifest: Manifest) -> None:
    """From now on the macros of this manifest, and of views of it, are what they are."""
    shared = _Shared(manifest.get_macros_by_package())
    shared.layouts = {}
    manifest._macros_by_package = shared


_built_by_dbt = MacroNamespaceBuilder.build_namespace


def _build_namespace(
    builder: MacroNamespaceBuilder, macros_by_package: dict[str, dict[str, Macro]], ctx: dict[str, Any]
) -> MacroNamespace:
    if not isinstance(macros_by_package, _Shared):
        return _built_by_dbt(builder, macros_by_package, ctx)
    key = (builder.root_package, builder.search_package, tuple(builder.internal_package_names_order))
    layout = macros_by_package.layouts.get(key)
    if layout is None:
        made = _built_by_dbt(builder, macros_by_package, ctx)
        macros_by_package.layouts[key] = _Layout(made)
        return made
    return layout.namespace(builder, ctx)


MacroNamespaceBuilder.build_namespace = _build_namespace  # type: ignore[method-assign, assignment]
