"""A context whose entries are made later holds what dbt's holds, and renders what dbt's renders."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbt.clients.jinja import MacroGenerator, add_rendered_test_kwargs, get_rendered
from dbt.context.base import Var
from dbt.context.manifest import ManifestContext
from dbt.context.providers import generate_runtime_macro_context, generate_runtime_model_context
from dbt.context.query_header import generate_query_header_context
from dbt_common.clients.jinja import NativeSandboxTemplate

from tests.support.engine import Shared, spec_for
from workers.engine.caller.invocation import dbt_invocation
from workers.engine.engine import Engine
from workers.engine.execution.run_state import RunState
from workers.engine.patches import registry, rendering
from workers.engine.patches.lazy_dict import LazyDict
from workers.engine.warehouse.concurrency import close_warehouse

pytestmark = pytest.mark.skipif(
    not registry.enabled("contexts"), reason="dbt makes the entries of a context when they are named, itself"
)

Made = Callable[[], dict[str, Any]]


@pytest.fixture
def view(copy_project: Callable[..., Path], duckdb_file: Path) -> Iterator[RunState]:
    project = copy_project("small")
    (project / "macros").mkdir(exist_ok=True)
    (project / "macros" / "own.sql").write_text(
        "{% macro flags() %}mine{% endmacro %}\n"
        "{% macro twice(word) %}{{ word ~ word }}{{ var('year') }}{{ flags() }}{% endmacro %}\n"
        "{% macro default__test_not_null(model, column_name) %}select 1 from {{ model }} where "
        "{{ column_name }} is null and '{{ twice('x') }}' = ''{% endmacro %}\n"
    )
    engine, spec = Engine(Shared()), spec_for(project, "build")
    engine.plan(spec, lambda event: None)
    view = engine._runs[spec.run_id]
    with dbt_invocation(spec, engine._sink):
        view.use()
        yield view
    close_warehouse()


def as_in_dbt(monkeypatch: pytest.MonkeyPatch, made: Made) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        patch.setattr(ManifestContext, "to_dict", rendering._dbt_to_dict)
        patch.setattr(ManifestContext, "_build_namespace", rendering._dbt_build_namespace)
        return made()


def told(value: Any, ctx: dict[str, Any]) -> Any:
    """As much of an entry as two contexts can agree on."""
    if value is ctx:
        return "the context"
    if isinstance(value, MacroGenerator):
        node = getattr(value.node, "unique_id", None)
        return value.macro.unique_id, node, value.context is ctx, value.stack is ctx["context_macro_stack"]
    if isinstance(value, dict):
        return {key: told(each, ctx) for key, each in value.items()}
    if isinstance(value, Var):
        return type(value), sorted(value._merged), value._node and value._node.name, value._context is ctx
    if isinstance(value, (str, int, list, Namespace, type(None))):
        return value
    return getattr(value, "__qualname__", type(value))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert type(ours) is LazyDict
    assert type(theirs) is dict
    own = list(theirs["builtins"])
    assert list(ours["builtins"]) == own
    assert set(ours) == set(theirs)
    assert list(ours)[: len(own) + 2] == list(theirs)[: len(own) + 2] == ["context", "builtins", *own]
    assert told(dict(ours), ours) == told(dict(theirs), theirs)
    for name, value in ours["builtins"].items():
        if not isinstance(ours[name], MacroGenerator):
            assert ours[name] is value or ours[name] == value


def test_what_is_in_a_context_is_what_dbt_puts_there(view: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, config = view.manifest, view.config
    made: list[Made] = [
        lambda node=node: generate_runtime_model_context(node, config, manifest)  # type: ignore[misc]
        for node in manifest.nodes.values()
    ]
    macro = manifest.macros["macro.dbt.statement"]
    made += [
        lambda package=package: generate_runtime_macro_context(macro, config, manifest, package)  # type: ignore[misc]
        for package in (None, "dbt", config.project_name)
    ]
    made.append(lambda: generate_query_header_context(config, manifest))
    for each in made:
        compare(each(), as_in_dbt(monkeypatch, each))


def test_nothing_is_made_before_it_is_named(view: RunState) -> None:
    node: Any = next(iter(view.manifest.nodes.values()))
    ctx: Any = generate_runtime_model_context(node, view.config, view.manifest)
    waiting = set(dict.keys(ctx)) ^ ctx.names()
    assert {"exceptions", "invocation_args_dict", "var", "twice", "dbt", "statement"} <= waiting
    assert view.config.dependencies is not None  # dbt's own dispatch relies on `var` having read them
    assert get_rendered("{{ twice('a') }}", ctx, node).endswith("mine")
    assert "var" in dict.keys(ctx)
    assert "statement" not in dict.keys(ctx)
    assert ctx["dbt"]["statement"] is ctx["statement"]
    assert ctx["builtins"]["var"] is ctx["var"]


TEXTS = [
    "{{ context.keys() | length }}", "{{ context | length > 500 }}", "{{ 'statement' in context }}",
    "{{ context['var']('year') }}", "{{ context.get('nothing', 'none') }}", "{{ twice('b') }}",
    "{% do context.update({'twice': 'changed'}) %}{{ context['twice'] }}", "{{ dbt.type_string() }}",
    "{{ builtins.ref('stg_orders') }}", "{{ flags() }}{{ builtins.flags.WHICH }}",
    "{% for key, value in invocation_args_dict.items() %}{{ key }}{{ value }}{% endfor %}",
    "{{ nothing }}", "{{ exceptions.raise_compiler_error('no') }}", "{{ adapter.dispatch('type_string', 'dbt')() }}",
    "{{ range(3) | list }}", "{{ [namespace, joiner] | length }}",
]  # fmt: skip


def test_templates_see_no_difference(view: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    node: Any = next(node for node in view.manifest.nodes.values() if node.name == "customer_totals")

    def made() -> dict[str, Any]:
        return generate_runtime_model_context(node, view.config, view.manifest)

    def rendered(ctx: dict[str, Any], text: str, *, native: bool) -> Any:
        try:
            return get_rendered(text, ctx, node, native=native)
        except Exception as error:  # noqa: BLE001 - dbt's own
            return f"{type(error).__name__}: {error}"

    for text in TEXTS:
        for native in (False, True):
            ours = rendered(made(), text, native=native)
            with monkeypatch.context() as patch:
                patch.setattr(NativeSandboxTemplate, "new_context", rendering._jinja_new_context)
                assert ours == rendered(as_in_dbt(monkeypatch, made), text, native=native), text


def test_arguments_of_a_generic_test_are_rendered_with_little_of_a_context(view: RunState) -> None:
    node: Any = next(node for node in view.manifest.nodes.values() if hasattr(node, "test_metadata"))
    ctx: Any = generate_runtime_model_context(node, view.config, view.manifest)
    add_rendered_test_kwargs(ctx, node)
    assert "statement" not in dict.keys(ctx)
    assert "where" in get_rendered(node.raw_code, ctx, node)
