"""What a parse logs is logged again where the parse is kept for another var set."""

from __future__ import annotations

import pytest

from tests.support.parsing import Parsing, write
from workers.engine.patches import registry

pytestmark = [
    pytest.mark.usefixtures("quick_parsing"),
    pytest.mark.skipif(not registry.enabled("changed-vars"), reason="DBT_RELAY_PATCHES turns it off"),
]

SAYING = {
    "models/a.sql": "{{ log('a: year ' ~ var('year', 0), info=true) }} select 1 as id",
    "models/b.sql": "{{ config(alias='b_' ~ var('alias', 'x')) }}{{ print('b: ' ~ var('year', 0)) }}"
        "{% if var('year', 0) == 2 %}{% do exceptions.warn('b: year 2') %}{% endif %} select 1 as id",
    "models/c.sql": "{{ log('c: no var', info=true) }}{{ log('c: debug') }} select 1 as id",
    "models/d.sql": "{{ log('d: year ' ~ var('year', 0), info=true) }} select '{{ var('year', 0) }}' as year",
    "models/reader.sql": "select '{{ var('year', 0) }}' as year",
    "macros/names.sql": "{% macro generate_alias_name(custom_alias_name=none, node=none) %}{% if custom_alias_name %}"
        "{% do log('alias of ' ~ node.name, info=true) %}{% endif %}{{ custom_alias_name or node.name }}{% endmacro %}",
    "models/odd.yml": "models: [{name: nobody, description: of no model}]",
    "models/old.yml": "models: [{name: b, columns: [{name: id, tests: [{accepted_values: {values: [1]}}]}]},"
        "{name: leaf, columns: [{name: id, tests: [{accepted_values: {values: [1]}}]}]}]",
}  # fmt: skip


def test_messages_of_a_kept_parse_are_logged_again_for_other_vars(parsing: Parsing) -> None:
    write(parsing.project, SAYING)
    assert parsing.how({"year": 1}) == "whole"
    for values, how in (
        ({"year": 2}, "kept"), ({"year": 3, "alias": "y"}, "partial"), ({"year": 2, "alias": "y"}, "kept"),
        ({"year": 1}, "kept"),
    ):  # fmt: skip
        assert parsing.how(values) == how
        logged = parsing.lines()
        full = Parsing(parsing.project, "--no-partial-parse")
        full.manifest(values)
        assert logged == full.lines()
        assert sum(f"a: year {values['year']}" in line for line in logged) == 1
        assert sum("nobody" in line for line in logged) == 1
    parsing.manifest({"year": 1})
    assert [line for line in parsing.lines() if "year" in line or "nobody" in line] == [], (
        "dbt parses nothing"
    )


def test_ref_in_a_generic_test_returns_the_same_relation_when_it_is_rendered_again(parsing: Parsing) -> None:
    files = {
        "macros/near.sql": "{% test near(model, column_name) %}{{ log('near ' ~ model ~ ' ' ~ var('v0', 0), info=true) }}"
        "{% if var('v0', 0) == 2 and 'audit' not in model | string %}{{ config(tags=['main']) }}{% endif %}select 1{% endtest %}",
        "models/leaf.yml": "models: [{name: leaf, columns: [{name: id, data_tests: [near]}]}]",
    }
    write(parsing.project, files)
    parsing.manifest({})
    for value, how in ((1, "kept"), (2, "partial")):
        assert parsing.how({"v0": value}) == how
        logged = parsing.lines()
        found = parsing.manifest({"v0": value})
        full = Parsing(parsing.project, "--no-partial-parse")
        assert found == full.manifest({"v0": value})
        assert logged == full.lines()


def test_message_with_the_time_is_rendered_again(parsing: Parsing) -> None:
    write(
        parsing.project,
        {
            "models/a.sql": "{{ log('at ' ~ run_started_at ~ '!', info=true) }} select {{ var('v0', 1) }} as id"
        },
    )
    logged = set()
    for number in (1, 2, 1, 2):
        assert parsing.how({"v0": number}) == ("whole" if not logged else "kept")
        logged |= {line for line in parsing.logged if "at 20" in line}
    assert len(logged) == 4


def test_text_suppressed_by_no_print_is_printed_in_the_next_run(parsing: Parsing) -> None:
    write(parsing.project, {"models/a.sql": "{{ print('year ' ~ var('year', 0)) }} select 1 as id"})
    parsing.manifest({"year": 1}, "--no-print")
    assert not any("year 1" in line for line in parsing.logged)
    parsing.manifest({"year": 2})
    parsing.manifest({"year": 1})
    assert sum("year 1" in line for line in parsing.logged) == 1
