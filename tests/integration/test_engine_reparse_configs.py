"""A var in a config section of dbt_project.yml: only the nodes below its level are parsed again."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.parsing import START, Parsing, differences, whole, write
from workers.engine.patches import registry

pytestmark = [
    pytest.mark.usefixtures("quick_parsing"),
    pytest.mark.skipif(not registry.enabled("changed-vars"), reason="DBT_RELAY_PATCHES turns it off"),
]

SQL = "select 1 as id"
SNAPSHOT = "{% snapshot NAME %}{{ config(unique_key='id', strategy='check', check_cols='all') }}select 1 as id{% endsnapshot %}"
OWNER = {"type": "dashboard", "owner": {"email": "team@example.com"}}
UNIT_TEST = {"model": "leaf", "given": [], "expect": {"rows": [{"id": 1}]}}
NOT_NULL = [{"name": "id", "data_tests": ["not_null"]}]
FILES: dict[str, Any] = {
    "models/marts/a.sql": SQL, "models/marts/b.sql": SQL, "models/of_a.sql": "select * from {{ ref('leaf') }}",
    "models/marts/marts.yml": {"models": [{"name": "a", "columns": NOT_NULL}, {"name": "b", "columns": NOT_NULL}]},
    "models/more/more.yml": {"models": [{"name": "other", "columns": NOT_NULL}]},
    "models/versions/v_v1.sql": SQL, "models/versions/v_v2.sql": SQL,
    "models/versions/v.yml": {"models": [{"name": "v", "versions": [{"v": 1}, {"v": 2}]}]},
    "seeds/few.csv": "id\n1\n", "seeds/many.csv": "id\n1\n",
    "snapshots/one.sql": SNAPSHOT.replace("NAME", "one"), "snapshots/two.sql": SNAPSHOT.replace("NAME", "two"),
    "snapshots/three.yml": {"snapshots": [
        {"name": "three", "relation": "ref('leaf')", "config": {"unique_key": "id", "strategy": "check", "check_cols": "all"}}]},
    "models/raw.yml": {"sources": [
        {"name": "raw", "tables": [{"name": "t", "columns": NOT_NULL}]}, {"name": "rest", "tables": [{"name": "t", "columns": NOT_NULL}]}]},
    "models/shown.yml": {"exposures": [{"name": "shown", **OWNER}, {"name": "hidden", **OWNER}],
        "unit_tests": [{"name": "u", **UNIT_TEST}, {"name": "w", **UNIT_TEST}]},
    "tests/single.sql": "select 1 as one where false", "tests/double.sql": "select 1 as one where false",
    "packages.yml": "packages: [{local: extra}]", "extra/models/packed.sql": SQL,
    "extra/dbt_project.yml": {"name": "extra", "version": "1.0", "models": {"extra": {"+tags": "{{ var('x', 'own') }}"}}},
    "dbt_packages/extra/dbt_project.yml": {"name": "extra", "version": "1.0", "models": {"extra": {"+tags": "{{ var('x', 'own') }}"}}},
    "dbt_packages/extra/models/packed.sql": SQL,
}  # fmt: skip
PROJECT = yaml.safe_load(START["dbt_project.yml"])
ON = "{{ var('x', 1) == 1 }}"
A_AND_ITS_TEST = {"a", "not_null_a_id"}
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "model enabled": ({"models": {"reading": {"marts": {"a": {"+enabled": ON}}}}}, A_AND_ITS_TEST),
    "model enabled without plus": ({"models": {"reading": {"marts": {"a": {"enabled": ON}}}}}, A_AND_ITS_TEST),
    "model schema": ({"models": {"reading": {"marts": {"a": {"+schema": "s{{ var('x', 1) }}"}}}}}, A_AND_ITS_TEST),
    "model tags, in a folder": (
        {"models": {"reading": {"+tags": "all", "marts": {"+tags": ["t{{ var('x', 1) }}"]}}}},
        {"a", "b", "not_null_a_id", "not_null_b_id"},
    ),
    "model materialized": ({"models": {"reading": {"marts": {"a": {"+materialized": "{{ 'table' if var('x', 1) == 1 else 'view' }}"}}}}}, A_AND_ITS_TEST),
    "model meta": ({"models": {"reading": {"marts": {"+meta": {"k": 1}, "a": {"+meta": {"v": "{{ var('x', 1) }}"}}}}}}, A_AND_ITS_TEST),
    "model meta without plus, which dbt takes for a level": ({"models": {"reading": {"marts": {"a": {"meta": "{{ {'v': var('x', 1)} }}"}}}}}, A_AND_ITS_TEST),
    "model version": ({"models": {"reading": {"versions": {"v": {"v1": {"+tags": "t{{ var('x', 1) }}"}}}}}}, {"v"}),
    "model of a package": ({"models": {"extra": {"+tags": "t{{ var('x', 1) }}"}}}, {"packed"}),
    "generic tests, in a folder": ({"data_tests": {"reading": {"marts": {"+severity": "{{ 'warn' if var('x', 1) == 1 else 'error' }}"}}}},
        {*A_AND_ITS_TEST, "b", "not_null_b_id"}),
    "singular test enabled": ({"tests": {"reading": {"single": {"+enabled": ON}}}}, {"single"}),
    "seed enabled": ({"seeds": {"reading": {"few": {"+enabled": ON}}}}, {"few"}),
    "snapshot enabled": ({"snapshots": {"reading": {"one": {"+enabled": ON}}}}, {"one"}),
    "snapshot of YAML": ({"snapshots": {"reading": {"three": {"+meta": {"v": "{{ var('x', 1) }}"}}}}}, {"three"}),
    "source enabled": ({"sources": {"reading": {"raw": {"+enabled": ON}}}}, {"t", "source_not_null_raw_t_id"}),
    "exposure enabled": ({"exposures": {"reading": {"shown": {"+enabled": ON}}}}, {"shown"}),
    "unit test enabled": ({"unit_tests": {"reading": {"leaf": {"u": {"+enabled": ON}}}}}, {"u"}),
    "start hook": ({"on-run-start": "{% if var('x', 1) == 1 %}select 1 from {{ ref('leaf') }}{% endif %}", "on-run-end": "select 2"},
        {"reading-on-run-start-0", "reading-on-run-end-0"}),
    "config of hooks": ({"on-run-start": "select 1", "models": {"reading": {"hooks": {"+meta": {"v": "{{ var('x', 1) }}"}}}}},
        {"reading-on-run-start-0"}),
}  # fmt: skip


def parsed_when(parsing: Parsing) -> dict[str, float]:
    """When each node, source, … of the latest context was parsed, by name."""
    manifest = list(parsing.engine._contexts._contexts.values())[-1].manifest
    collections = (manifest.nodes, manifest.sources, manifest.exposures, manifest.unit_tests)
    members = [member for collection in collections for member in collection.values()]
    members += [member for several in manifest.disabled.values() for member in several]
    names = ((f"{m.source_name}.{m.name}" if m.resource_type == "source" else m.name, m) for m in members)
    return {name: member.created_at for name, member in names}


@pytest.mark.parametrize("case", CASES)
def test_only_nodes_below_a_changed_level_are_parsed_again(parsing: Parsing, case: str) -> None:
    config, expected = CASES[case]
    write(parsing.project, FILES | {"dbt_project.yml": PROJECT | config})
    assert parsing.how({}) == "whole"
    for values in ({"x": 2}, {"x": 1}):
        before = parsed_when(parsing)
        found, how = parsing.manifest_and_how(values)
        assert how == "partial"
        assert {
            name.removeprefix("raw.") for name, at in parsed_when(parsing).items() if at != before[name]
        } == (expected)
        full = whole(parsing.project, values)
        assert found == full, "\n".join(differences(found, full))
