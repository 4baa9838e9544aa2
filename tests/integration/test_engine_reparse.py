"""A changed var set: what is kept of a parse equals a full parse.

``RELAY_REPARSE_EXAMPLES`` sets how many random projects (`make reparse`: 200), ``RELAY_REPARSE_SEED`` replays one.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dbt.version import installed
from dbt_common.tests import enable_test_caching

from tests.support.engine import drive, spec_for
from tests.support.parsing import START, Parsing, differences, whole, write
from tests.support.reading_projects import PROFILES, ReadingProject
from workers.engine.engine import Engine
from workers.engine.patches import registry
from workers.engine.project.parse_reads import Recorder
from workers.engine.project.parse_units import PROJECT
from workers.engine.project.recorded_vars import EVERYTHING, RecordedVars

pytestmark = [
    pytest.mark.usefixtures("quick_parsing"),
    pytest.mark.skipif(not registry.enabled("changed-vars"), reason="DBT_RELAY_PATCHES turns it off"),
]

EXAMPLES = int(os.environ.get("RELAY_REPARSE_EXAMPLES", "2"))


@pytest.mark.timeout(0)
def test_random_projects_with_random_vars_equal_a_full_parse(
    tmp_path: Path, duckdb_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: Counter[str] = Counter()
    first = int(
        os.environ.get("RELAY_REPARSE_SEED")
        or (7 if EXAMPLES < 10 else random.SystemRandom().randrange(2**32))
    )
    for seed in range(first, first + EXAMPLES):
        project = tmp_path / str(seed)
        reading = ReadingProject(seed)
        reading.write(project)
        parsing = Parsing(project)
        values = reading.values()
        parsing.manifest(values)
        for _ in range(3):
            earlier, values = values, reading.changed(values)
            found, way = parsing.manifest_and_how(values)
            lines = parsing.lines()
            ways["refused" if isinstance(found, str) else way] += 1
            full = Parsing(project, "--no-partial-parse")
            expected, where = (
                full.manifest(values),
                f"RELAY_REPARSE_SEED={seed} RELAY_REPARSE_EXAMPLES=1, {values}: ",
            )
            assert found == expected, where + "\n".join(differences(found, expected))
            if repr(values) != repr(earlier):  # otherwise dbt parses nothing
                assert lines == full.lines(), where
    counts = ", ".join(f"{ways[way]} {way}" for way in ("kept", "partial", "whole", "refused"))
    print(f"\n{EXAMPLES} examples from seed {first}: {counts}", flush=True)


MODEL_TESTS = {"name": "leaf", "columns": [{"name": "id", "data_tests": [
    {"accepted_values": {"arguments": {"values": "{{ var('kept', [1]) }}"}}}, "not_null",
]}]}  # fmt: skip
PLAIN = {
    "models/kept.sql": "select '{{ var('kept', 0) }}' as v, {{ reads_deeper('kept') }} as w from {{ ref('leaf') }}",
    "models/with_all.sql": "-- {{ invocation_args_dict.vars }} {{ var('kept', 1) }}\nselect 1 as id",
    "models/of_leaf.yml": {"models": [MODEL_TESTS]},
    "models/clock.sql": "select '{{ run_started_at }}' as at, '{{ modules.datetime.datetime.now() }}' as now",
    "tests/single.sql": "select 1 as one where {{ var('kept', '') | string | length }} < 0",
    "analyses/b.sql": "select {{ var('kept', 1) }}",
    "models/of_source.sql": "select 1 as id from {{ source('raw', 't') }}",
    "dbt_project.yml": {
        "name": "reading", "version": "1.0", "profile": "reading", "flags": {"send_anonymous_usage_stats": False},
        "models": {"reading": {"+meta": {"v": "{{ var('project_file', 1) }}"}}},
        "on-run-start": "select '{{ var('kept', 0) }}' as a",
        "on-run-end": "{% if var('project_hook', 0) %}select 1 from {{ ref('leaf') }}{% endif %}",
        "query-comment": "{{ var('kept', 0) }}",
        "quoting": {"identifier": "{{ var('project_quoting', '') == '' }}"},
    },
    "profiles.yml": PROFILES.replace("schema: main", "schema: \"{{ var('profile', 'main') }}\""),
}  # fmt: skip
PARTIAL: dict[str, dict[str, Any]] = {
    "alias": {"models/x.sql": "{{ config(alias='alias_' ~ var('alias', 'x')) }} select 1 as id"},
    "macro": {"models/x.sql": "{{ tagged('macro') }} select 1 as id"},
    "ref": {"models/x.sql": "select * from {{ ref('leaf' if var('ref', '') == '' else 'other') }}"},
    "hook": {"models/x.sql": "{{ config(post_hook='select ' ~ (var('hook', 0) | string | length)) }} select 1 as id"},
    "hooks_code": {
        "models/x.sql": "{{ config(post_hook=\"{% if var('hooks_code', 0) %}select 1 from {{ ref('leaf') }}{% endif %}\") }}"
        "select 1 as id"
    },
    "entry": {
        "models/x.sql": "select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "config": {"meta": {"v": "{{ var('entry', 1) }}"}}}]},
    },
    "tests_config": {
        "models/x.sql": "select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "columns": [{"name": "id", "data_tests": [
            {"not_null": {"config": {"where": "1 = {{ var('tests_config', 1) | string | length }}"}}}]}]}]},
    },
    "v1": {  # read by the test's macro
        "models/x.sql": "select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "columns": [{"name": "id", "data_tests": ["configured"]}]}]},
    },
    "source": {"models/x.yml": {"sources": [
        {"name": "raw", "schema": "{{ var('source', 'r') }}", "tables": [{"name": "t", "columns": [{"name": "id", "data_tests": ["unique"]}]}]}]}},
    "enabled": {"models/x.sql": "{{ config(enabled=var('enabled', '') == '') }} select 1 as id"},
    "description": {
        "models/x.sql": "select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "description": "is {{ var('description', 1) }}"}]},
    },
    "group": {
        "models/x.sql": "{{ config(group='team' if var('group', '') else none) }} select 1 as id",
        "models/x.yml": {"groups": [{"name": "team", "owner": {"email": "team@example.com"}}]},
    },
    "unit_test": {
        "models/x.sql": "{{ config(alias='unit_' ~ var('unit_test', 'x')) }} select 1 as id",
        "models/x.yml": {"unit_tests": [{"name": "u", "model": "x", "given": [], "expect": {"rows": [{"id": 1}]}}]},
    },
    "exposure": {"models/x.yml": {"exposures": [{"name": "shown", "type": "dashboard",
        "owner": {"email": "team@example.com"}, "label": "{{ var('exposure', 'l') }}"}]}},
    "disabled_model": {
        "models/x.sql": "{{ config(enabled=var('disabled_model', '') != '') }} select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "columns": [{"name": "id", "data_tests": ["unique", "not_null"]}]}]},
    },
    "test_of_yaml": {
        "models/x.sql": "select 1 as id",
        "models/x.yml": {"models": [{"name": "x", "columns": [{"name": "id", "data_tests": [
            {"not_null": {"config": {"enabled": "{{ var('test_of_yaml', '') == '' }}"}}}, "unique"]}]}]},
    },
    "singular": {"tests/x.sql": "{{ config(enabled=var('singular', '') == '') }} select * from {{ ref('leaf') }} where false"},
    "referred": {  # by a test of another model, a unit test and an exposure
        "models/x.sql": "{{ config(enabled=var('referred', '') == '') }} select 1 as id",
        "models/y.sql": "select 1 as id",
        "models/x.yml": {
            "models": [{"name": "x", "columns": [{"name": "id", "data_tests": ["unique"]}]}, {"name": "y_x", "columns": []}],
            "unit_tests": [{"name": "u_x", "model": "x", "given": [], "expect": {"rows": [{"id": 1}]}}],
        },
        "tests/x.sql": "select * from {{ ref('leaf') }} where false",
    },
    "source_enabled": {"models/x.yml": {"sources": [{"name": "off_x", "config": {"enabled": "{{ var('source_enabled', '') == '' }}"},
        "tables": [{"name": "t"}]}]}},
    "tested_source": {  # dbt warns of its test
        "models/x.yml": {"sources": [{"name": "tested_x", "config": {"enabled": "{{ var('tested_source', '') == '' }}"},
        "tables": [{"name": "t", "columns": [{"name": "id", "data_tests": ["unique"]}]}]}]}},
    "project_hook": {},
    "snapshot": {"snapshots/x.sql": "{% snapshot x %}{{ config(unique_key='id', strategy='check', check_cols='all',"
        "tags=[var('snapshot', 't')]) }}select * from {{ ref('leaf') }}{% endsnapshot %}"},
}  # fmt: skip
if installed.minor == "10":  # dbt-core 1.10 refuses a project with a unit test of a disabled model
    del PARTIAL["referred"]
WHOLE: dict[str, dict[str, Any]] = {
    "project_file": {},  # a level that the config of a group looks up
    "profile": {},
    "project_quoting": {},
    "entrys_name": {"models/x.yml": {"sources": [{"name": "raw_{{ var('entrys_name', 'x') }}", "tables": [{"name": "t"}]}]}},
    "broken": {"models/x.sql": "{{ config(tags='t' ~ (1 // var('broken', 1))) }} select 1 as id"},
}  # fmt: skip


def as_case(case: str, name: str, text: Any) -> tuple[str, Any]:
    """A file of a case under names of its own."""
    raw = text if isinstance(text, str) else json.dumps(text).replace('"x"', f'"of_{case}"')
    return name.replace("x.", f"of_{case}."), raw.replace("snapshot x", f"snapshot of_{case}")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Parsing:
    """A project that reads a var of each name above, parsed without any."""
    project = tmp_path_factory.mktemp("everything") / "project"
    write(project, START | PLAIN)
    for case, files in (PARTIAL | WHOLE).items():
        write(project, dict(as_case(case, name, text) for name, text in files.items()))
    parsing = Parsing(project)
    enable_test_caching()
    assert parsing.how({}) == "whole"
    return parsing


def test_model_that_only_writes_a_var_into_its_sql_is_kept(
    everything: Parsing, no_full_parse: list[str]
) -> None:
    base = everything.manifest({})
    assert everything.manifest({"kept": "two"}) == base
    assert everything.manifest({"kept": "two", "unread": 1}) == base
    assert everything.shared.parses == 1
    assert no_full_parse == []


@pytest.mark.parametrize("case", PARTIAL)
def test_part_that_a_var_changes_is_parsed_again(
    everything: Parsing, no_full_parse: list[str], case: str
) -> None:
    everything.manifest({})
    base, before = everything.manifest({"unread": 2}), everything.shared.parses
    found = everything.manifest({case: f"other {case}"})
    assert found != base
    assert (no_full_parse, everything.shared.parses) == ([], before + 1)


def test_partial_reparse_equals_a_full_parse(everything: Parsing) -> None:
    values: dict[str, Any] = {}
    for case in PARTIAL:
        values[case] = f"all of {case}"
        found = everything.manifest(values)
    expected = whole(everything.project, values)
    assert found == expected, "\n".join(differences(found, expected))
    assert list(found["nodes"]) == list(expected["nodes"])


@pytest.mark.parametrize("case", WHOLE)
def test_change_that_is_not_proven_takes_a_full_parse(
    everything: Parsing, no_full_parse: list[str], case: str
) -> None:
    everything.manifest({"unread": 3})
    assert everything.manifest({case: 0 if case == "broken" else f"other {case}"}) == "a full parse"
    assert len(no_full_parse) == 1


def test_template_that_changes_a_var_takes_a_full_parse(parsing: Parsing) -> None:
    write(parsing.project, {"models/a.sql": "{% do var('list').append(1) %} select 1 as id"})
    parsing.manifest({"list": []})
    assert parsing.how({"list": [], "v0": "two"}) == "whole"


def test_a_run_with_other_vars_executes_with_them_in_any_process(parsing: Parsing) -> None:
    write(
        parsing.project, {"models/a.sql": "{{ config(materialized='table') }} select '{{ var('v0') }}' as v"}
    )
    engines = [parsing.engine, Engine(parsing.shared)]
    for value in ("one", "two", "three"):
        ran = drive(engines, spec_for(parsing.project, "run", "--vars", json.dumps({"v0": value})))
        assert ran.finished.return_code == 0
        assert ran.finished.run_results is not None
        code = {each["unique_id"]: each["compiled_code"] for each in ran.finished.run_results["results"]}
        assert code["model.reading.a"].strip() == f"select '{value}' as v"
    assert parsing.shared.parses == 1


def test_messages_of_a_changed_var_set_are_logged_once(parsing: Parsing) -> None:
    write(
        parsing.project,
        {"models/a.sql": "{{ config(alias='a_' ~ var('v0', 'x')) }} select {{ var('v1', 1) }} as id"},
    )
    logged = []
    for values in ({}, {"v1": 2}, {"v0": "two"}):
        parsing.manifest(values)
        logged.append(
            [re.sub(r"\d\d:\d\d:\d\d", "", line) for line in parsing.logged if "partial" not in line]
        )
    assert logged[0] == logged[1] == logged[2]
    assert sum("Registered adapter" in line for line in logged[1]) == 1


def test_missing_or_outdated_base_takes_a_full_parse(
    parsing: Parsing, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    write(
        parsing.project,
        {"models/a.sql": "select '{{ env_var('MOOD', 'calm') }}' as mood, {{ var('v0', 1) }} as v"},
    )
    parsing.manifest({})
    refused: list[str] = request.getfixturevalue("no_full_parse")
    assert parsing.manifest({"v0": 0}) == parsing.manifest({})

    write(parsing.project, {"models/b.sql": "select 2 as id"})
    assert parsing.manifest({"v0": 1}) == "a full parse"
    (parsing.project / "models" / "b.sql").unlink()
    monkeypatch.setenv("MOOD", "cross")
    assert parsing.manifest({"v0": 1}) == "a full parse"
    monkeypatch.delenv("MOOD")
    assert parsing.manifest({"v0": 1}, "--no-partial-parse") == "a full parse"

    parsing.engine, packed = Engine(parsing.shared), dict(parsing.shared.packed)
    parsing.shared.packed.clear()
    assert parsing.manifest({"v0": 1}) == "a full parse"
    parsing.shared.packed = packed
    assert parsing.manifest({"v0": 1}) == parsing.manifest({})
    parsing.shared.indexes = dict.fromkeys(parsing.shared.indexes, b"garbage")
    assert parsing.manifest({"v0": 2}) == "a full parse"
    assert len(refused) == 5


def test_lookup_of_all_vars_is_recorded() -> None:
    for look in (len, list, dict, repr, copy.deepcopy, lambda v: v == {}, lambda v: v.copy(), lambda v: v.keys(),
                 lambda v: v.values(), lambda v: v.items(), lambda v: {**v}, {}.update, lambda v: v != {}, lambda v: v | {},
                 lambda v: {} | v, reversed, lambda v: v.popitem(), json.dumps):  # fmt: skip
        recorder = Recorder()
        look(RecordedVars({"a": 1, "b": 2}, recorder.var))
        (seen,) = recorder.seen.values()
        assert EVERYTHING in seen.vars


def test_lookup_of_a_var_is_recorded_with_its_name() -> None:
    recorder = Recorder()
    values = RecordedVars({"a": 1}, recorder.var)
    assert values["a"] == values.get("a") == 1
    assert "b" not in values
    assert values.get("c", 3) == values.pop("d", 3) == values.setdefault("e", 3) == 3
    assert recorder.seen[PROJECT].vars == {"a", "b", "c", "d", "e"}


def test_unread_dbt_environment_variable_makes_no_new_context(
    parsing: Parsing, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(parsing.project, {"models/a.sql": "select '{{ env_var('DBT_MOOD', 'calm') }}' as mood"})

    def parses(name: str) -> bool:
        before = parsing.shared.parses
        monkeypatch.setenv(name, "1")
        assert not isinstance(parsing.manifest({}), str)
        return parsing.shared.parses > before

    parsing.manifest({})
    assert not parses("DBT_UNREAD")
    for name in (
        "DBT_MOOD",
        "DBT_FULL_REFRESH",
        "DBT_ENV_CUSTOM_ENV_TEAM",
        "DBT_ENV_SECRET_KEY",
        "DBT_ENGINE_DEBUG",
    ):
        assert parses(name), name
