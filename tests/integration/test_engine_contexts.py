"""A project is parsed once while nothing changes, and again after each change that a parse can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.engine import Shared, drive, spec_for
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse

Copy = Callable[..., Path]


@pytest.fixture
def project(copy_project: Copy, duckdb_file: Path) -> Iterator[Path]:
    yield copy_project("small")
    close_warehouse()


def key_of(engine: Engine, project: Path, *args: str, **env: str) -> str:
    plan = engine.plan(spec_for(project, *(args or ("run",)), env=env), lambda event: None)
    return plan.facts.context_key


def test_unchanged_project_is_parsed_once(project: Path) -> None:
    shared = Shared()
    engine = Engine(shared)
    keys = {key_of(engine, project, *args) for args in (["run"], ["build"], ["test"], ["run", "-s", "x"])}
    assert len(keys) == shared.parses == 1


def test_second_process_unpacks_the_manifest_of_the_first(project: Path) -> None:
    shared = Shared()
    assert key_of(Engine(shared), project) == key_of(Engine(shared), project)
    assert shared.parses == 1


def test_lost_manifest_is_parsed_again_to_the_same_key(project: Path) -> None:
    shared = Shared()
    first = key_of(Engine(shared), project)
    shared.packed.clear()
    assert key_of(Engine(shared), project) == first
    assert shared.parses == 2


def test_unreadable_index_is_ignored(project: Path) -> None:
    shared = Shared()
    first = key_of(Engine(shared), project)
    shared.indexes = dict.fromkeys(shared.indexes, b"garbage")
    assert key_of(Engine(shared), project) == first


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("models/stg_orders.sql", "amount > 0", "amount > 1"),
        ("models/properties.yml", "[not_null, unique]", "[not_null]"),
        ("seeds/raw_orders.csv", "2025", "2024"),
        ("dbt_project.yml", "year: 2025", "year: 2024"),
        ("profiles.yml", "schema: main", "schema: other"),
        ("tests/no_amount_is_lost.sql", "select", "select  "),
    ],
)
def test_changed_file_gives_a_new_context(project: Path, name: str, old: str, new: str) -> None:
    engine = Engine(Shared())
    before = key_of(engine, project)
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new, 1))
    changed = key_of(engine, project)
    assert changed != before
    (project / name).write_text(text)
    assert key_of(engine, project) == before


def test_new_file_gives_a_new_context(project: Path) -> None:
    engine = Engine(Shared())
    before = key_of(engine, project)
    (project / "models" / "more.sql").write_text("select 1 as one")
    assert key_of(engine, project) != before


def test_vars_target_and_flags_that_a_parse_reads_give_a_new_context(project: Path) -> None:
    engine = Engine(Shared())
    keys = [
        key_of(engine, project),
        key_of(engine, project, "run", "--vars", "{year: 2026}"),
        key_of(engine, project, "run", "--target", "postgres"),
        key_of(engine, project, "run", "--threads", "3"),
        key_of(engine, project, RELAY_TEST_SCHEMA="elsewhere"),
    ]
    # only the Postgres target reads RELAY_TEST_SCHEMA, but dbt renders the chosen one alone
    assert len(set(keys[:4])) == 4


def test_environment_variable_that_the_project_reads_gives_a_new_context(project: Path) -> None:
    (project / "models" / "more.sql").write_text('select \'{{ env_var("MOOD", "calm") }}\' as mood')
    engine = Engine(Shared())
    calm = key_of(engine, project)
    assert key_of(engine, project, MOOD="wild") != calm
    assert key_of(engine, project, UNREAD="wild") == calm


def test_flag_gives_a_new_context_where_the_project_reads_flags(project: Path) -> None:
    engine = Engine(Shared())
    assert key_of(engine, project, "run") == key_of(engine, project, "run", "--full-refresh")
    (project / "models" / "more.sql").write_text(
        "{{ config(materialized='table' if flags.FULL_REFRESH else 'view') }} select 1 as one"
    )
    assert key_of(engine, project, "run") != key_of(engine, project, "run", "--full-refresh")


def test_compiled_code_does_not_reach_the_next_run(project: Path) -> None:
    engine = Engine(Shared())
    first = drive(engine, spec_for(project, "build"))
    assert first.finished.return_code == 0, first.lines
    context = next(iter(engine._contexts._contexts.values()))
    nodes = context.manifest.nodes.values()
    assert [node.name for node in nodes if getattr(node, "compiled_code", None)] == []
    assert [node.name for node in nodes if getattr(node, "extra_ctes", None)] == []
    second = drive(engine, spec_for(project, "build", "--vars", "{year: 2024}"))
    third = drive(engine, spec_for(project, "build"))
    assert third.statuses == second.statuses == first.statuses


def test_number_of_kept_contexts_is_limited(project: Path) -> None:
    engine = Engine(Shared(), contexts=2)
    for year in range(2020, 2023):
        key_of(engine, project, "run", "--vars", f"{{year: {year}}}")
    assert len(engine._contexts._contexts) == 2


def test_worker_with_another_project_refuses_the_run(project: Path) -> None:
    engine, other = Engine(Shared()), Engine(Shared())
    spec = spec_for(project, "run")
    facts = engine.plan(spec, lambda event: None).facts
    (project / "models" / "stg_orders.sql").write_text("select 1 as order_id")
    with pytest.raises(Exception, match="not the one that the run was planned with"):
        other.start(spec, facts, lambda event: None)
