"""Contexts with lazily built entries: content and rendering equal dbt's."""

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

pytestmark = pytest.mark.skipif(not registry.enabled("contexts"), reason="the patch `contexts` is off")

Build = Callable[[], dict[str, Any]]


@pytest.fixture
def run(copy_project: Callable[..., Path], duckdb_file: Path) -> Iterator[RunState]:
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
    run = engine._runs[spec.run_id]
    with dbt_invocation(spec, engine._sink):
        run.use()
        yield run
    close_warehouse()


def built_by_dbt(monkeypatch: pytest.MonkeyPatch, build: Build) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        patch.setattr(ManifestContext, "to_dict", rendering._dbt_to_dict)
        patch.setattr(ManifestContext, "_build_namespace", rendering._dbt_build_namespace)
        return build()


def comparable(value: Any, ctx: dict[str, Any]) -> Any:
    """The parts of an entry that must be equal in two contexts."""
    if value is ctx:
        return "the context"
    if isinstance(value, MacroGenerator):
        node = getattr(value.node, "unique_id", None)
        return value.macro.unique_id, node, value.context is ctx, value.stack is ctx["context_macro_stack"]
    if isinstance(value, dict):
        return {key: comparable(each, ctx) for key, each in value.items()}
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
    assert comparable(dict(ours), ours) == comparable(dict(theirs), theirs)
    for name, value in ours["builtins"].items():
        if not isinstance(ours[name], MacroGenerator):
            assert ours[name] is value or ours[name] == value


def test_context_entries_equal_dbts(run: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, config = run.manifest, run.config
    builds: list[Build] = [
        lambda node=node: generate_runtime_model_context(node, config, manifest)  # type: ignore[misc]
        for node in manifest.nodes.values()
    ]
    macro = manifest.macros["macro.dbt.statement"]
    builds += [
        lambda package=package: generate_runtime_macro_context(macro, config, manifest, package)  # type: ignore[misc]
        for package in (None, "dbt", config.project_name)
    ]
    builds.append(lambda: generate_query_header_context(config, manifest))
    for each in builds:
        compare(each(), built_by_dbt(monkeypatch, each))


def test_entries_are_built_on_first_use(run: RunState) -> None:
    node: Any = next(iter(run.manifest.nodes.values()))
    ctx: Any = generate_runtime_model_context(node, run.config, run.manifest)
    waiting = set(dict.keys(ctx)) ^ ctx.names()
    assert {"exceptions", "invocation_args_dict", "var", "twice", "dbt", "statement"} <= waiting
    assert run.config.dependencies is not None  # dbt's dispatch needs the dependencies, which `var` reads
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


def test_templates_render_as_in_dbt(run: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    node: Any = next(node for node in run.manifest.nodes.values() if node.name == "customer_totals")

    def build() -> dict[str, Any]:
        return generate_runtime_model_context(node, run.config, run.manifest)

    def rendered(ctx: dict[str, Any], text: str, *, native: bool) -> Any:
        try:
            return get_rendered(text, ctx, node, native=native)
        except Exception as error:  # noqa: BLE001 - dbt's own
            return f"{type(error).__name__}: {error}"

    for text in TEXTS:
        for native in (False, True):
            ours = rendered(build(), text, native=native)
            with monkeypatch.context() as patch:
                patch.setattr(NativeSandboxTemplate, "new_context", rendering._jinja_new_context)
                assert ours == rendered(built_by_dbt(monkeypatch, build), text, native=native), text


def test_generic_test_arguments_build_few_context_entries(run: RunState) -> None:
    node: Any = next(node for node in run.manifest.nodes.values() if hasattr(node, "test_metadata"))
    ctx: Any = generate_runtime_model_context(node, run.config, run.manifest)
    add_rendered_test_kwargs(ctx, node)
    assert "statement" not in dict.keys(ctx)
    assert "where" in get_rendered(node.raw_code, ctx, node)
