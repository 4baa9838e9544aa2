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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt.deprecations import active_deprecations
from dbt.version import installed
from dbt_common.tests import disable_test_caching, enable_test_caching

from tests.support.engine import Shared, drive, spec_for
from tests.support.reading_projects import MACROS, PROFILES, ReadingProject
from workers.engine.engine import CommandFailedError, Engine
from workers.engine.patches import registry
from workers.engine.project.context import ContextStore
from workers.engine.project.parse_reads import Recorder
from workers.engine.project.parse_units import PROJECT
from workers.engine.project.recorded_vars import EVERYTHING, WatchedVars
from workers.engine.warehouse.concurrency import close_warehouse

pytestmark = pytest.mark.skipif(
    not registry.enabled("changed-vars"), reason="these are tests of what DBT_RELAY_PATCHES turns off"
)

EXAMPLES = int(os.environ.get("RELAY_REPARSE_EXAMPLES", "2"))
OF_AN_INVOCATION = {"created_at", "generated_at", "invocation_id", "invocation_started_at", "run_started_at"}


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """dbt's own macros are taken apart once."""
    enable_test_caching()
    yield
    disable_test_caching()
    close_warehouse()


class Parsing:
    """An engine that is given one var set after the other."""

    def __init__(self, project: Path, *args: str) -> None:
        self.project, self.args = project, args
        self.shared = Shared()
        self.engine = Engine(self.shared)
        self.said: list[str] = []

    def manifest(self, values: Mapping[str, Any], *more: str) -> Any:
        """The manifest, as JSON and in its order, or what dbt says instead."""
        args = ("run", *self.args, "--vars", json.dumps(values), *more)
        spec = spec_for(self.project, *args)
        events: list[Any] = []
        try:
            key = self.engine.plan(spec, events.append).facts.context_key
        except CommandFailedError as error:
            return str(error)
        finally:
            self.said = [event.text for event in events if event.text]
            self.engine.forget(spec.run_id)
        found = self.engine._contexts._contexts[key].manifest
        return plain(found.writable_manifest().to_dict(omit_none=False, context={"artifact": True}))

    def lines(self) -> list[str]:
        """What the last parse said, without times and without dbt's reason for a whole parse; and its deprecations."""
        said = [
            re.sub(r"\d\d:\d\d:\d\d", "", line) for line in self.said if "partial pars" not in line.lower()
        ]
        return [*said, *(f"{name}: {count}" for name, count in active_deprecations.items())]

    def how(self, values: Mapping[str, Any], *more: str) -> str:
        """Whether a parse was needed for these vars: kept, partial or whole."""
        saved, before = self.project / "target" / "partial_parse.msgpack", self.shared.parses
        saved.unlink(missing_ok=True)
        assert not isinstance(self.manifest(values, *more), str)
        return "whole" if saved.exists() else "kept" if self.shared.parses == before else "partial"


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items() if name not in OF_AN_INVOCATION}
    return [plain(each) for each in value] if isinstance(value, (list, tuple, set)) else str(value)


def whole(project: Path, values: Mapping[str, Any]) -> Any:
    return Parsing(project, "--no-partial-parse").manifest(values)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}/{name}")
    elif one != other:
        yield f"{path}: {one!r} != {other!r}"


@pytest.mark.timeout(0)
def test_random_projects_with_random_vars_are_what_a_full_parse_gives(
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
            before, saved = parsing.shared.parses, project / "target" / "partial_parse.msgpack"
            saved.unlink(missing_ok=True)
            found, lines = parsing.manifest(values), parsing.lines()
            ways[
                "whole"
                if saved.exists() or isinstance(found, str)
                else "kept"
                if parsing.shared.parses == before
                else "partial"
            ] += 1
            full = Parsing(project, "--no-partial-parse")
            expected, where = (
                full.manifest(values),
                f"RELAY_REPARSE_SEED={seed} RELAY_REPARSE_EXAMPLES=1, {values}: ",
            )
            assert found == expected, where + "\n".join(differences(found, expected))
            if repr(values) != repr(earlier):  # otherwise dbt parses nothing
                assert lines == full.lines(), where
    print(dict(ways), flush=True)


@pytest.fixture
def parsing(tmp_path: Path, duckdb_file: Path) -> Parsing:
    """A project whose files a test writes, on top of two models and the macros of `reading_projects`."""
    write(tmp_path / "project", START)
    return Parsing(tmp_path / "project")


START = {
    "profiles.yml": PROFILES, "macros/all.sql": MACROS, "models/leaf.sql": "select 1 as id",
    "models/other.sql": "select 1 as id",
    "dbt_project.yml": "{name: reading, version: '1.0', profile: reading, flags: {send_anonymous_usage_stats: false}}",
}  # fmt: skip


def write(project: Path, files: Mapping[str, Any]) -> None:
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))


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
        "on-run-end": "{% if var('hook_of_the_project', 0) %}select 1 from {{ ref('leaf') }}{% endif %}",
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
    "snapshot": {"snapshots/x.sql": "{% snapshot x %}{{ config(unique_key='id', strategy='check', check_cols='all',"
        "tags=[var('snapshot', 't')]) }}select * from {{ ref('leaf') }}{% endsnapshot %}"},
}  # fmt: skip
if installed.minor == "10":  # dbt-core 1.10 refuses a project with a unit test of a disabled model
    del PARTIAL["referred"]
WHOLE: dict[str, dict[str, Any]] = {
    "project_file": {},
    "hook_of_the_project": {},
    "profile": {},
    "tested_source": {  # dbt warns of the test
        "models/x.yml": {"sources": [{"name": "tested_x", "config": {"enabled": "{{ var('tested_source', '') == '' }}"},
        "tables": [{"name": "t", "columns": [{"name": "id", "data_tests": ["unique"]}]}]}]}},
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


@pytest.fixture
def no_full_parse(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contexts that were to be parsed whole, and were not."""
    asked: list[str] = []

    def refuse(_: Any, family: str, *__: Any) -> None:
        asked.append(family)
        raise LookupError("a full parse")

    monkeypatch.setattr(ContextStore, "_parse", refuse)
    return asked


def test_what_only_writes_a_var_into_its_code_is_kept(everything: Parsing, no_full_parse: list[str]) -> None:
    base = everything.manifest({})
    assert everything.manifest({"kept": "two"}) == base
    assert everything.manifest({"kept": "two", "nobodys": 1}) == base
    assert everything.shared.parses == 1
    assert no_full_parse == []


@pytest.mark.parametrize("case", PARTIAL)
def test_what_a_var_changes_is_parsed_again(everything: Parsing, no_full_parse: list[str], case: str) -> None:
    everything.manifest({})
    base, before = everything.manifest({"nobodys": 2}), everything.shared.parses
    found = everything.manifest({case: f"other {case}"})
    assert found != base
    assert (no_full_parse, everything.shared.parses) == ([], before + 1)


def test_what_was_parsed_again_is_what_a_full_parse_gives(everything: Parsing) -> None:
    values: dict[str, Any] = {}
    for case in PARTIAL:
        values[case] = f"all of {case}"
        found = everything.manifest(values)
    expected = whole(everything.project, values)
    assert found == expected, "\n".join(differences(found, expected))
    assert list(found["nodes"]) == list(expected["nodes"])


@pytest.mark.parametrize("case", WHOLE)
def test_what_cannot_be_proven_is_parsed_whole(
    everything: Parsing, no_full_parse: list[str], case: str
) -> None:
    everything.manifest({"nobodys": 3})
    assert everything.manifest({case: 0 if case == "broken" else f"other {case}"}) == "a full parse"
    assert len(no_full_parse) == 1


def test_a_project_whose_templates_change_a_var_is_parsed_whole(parsing: Parsing) -> None:
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


def test_what_dbt_says_of_a_changed_var_set_it_says_once(parsing: Parsing) -> None:
    write(
        parsing.project,
        {"models/a.sql": "{{ config(alias='a_' ~ var('v0', 'x')) }} select {{ var('v1', 1) }} as id"},
    )
    said = []
    for values in ({}, {"v1": 2}, {"v0": "two"}):
        parsing.manifest(values)
        said.append([re.sub(r"\d\d:\d\d:\d\d", "", line) for line in parsing.said if "partial" not in line])
    assert said[0] == said[1] == said[2]
    assert sum("Registered adapter" in line for line in said[1]) == 1


def test_a_base_that_is_no_longer_there_or_true_is_none(
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


def test_whoever_looks_at_all_vars_is_noted() -> None:
    for look in (len, list, dict, repr, copy.deepcopy, lambda v: v == {}, lambda v: v.copy(), lambda v: v.keys(),
                 lambda v: v.values(), lambda v: v.items(), lambda v: {**v}, {}.update, lambda v: v != {}, lambda v: v | {},
                 lambda v: {} | v, reversed, lambda v: v.popitem(), json.dumps):  # fmt: skip
        recorder = Recorder()
        look(WatchedVars({"a": 1, "b": 2}, recorder.var))
        (seen,) = recorder.seen.values()
        assert EVERYTHING in seen.vars


def test_whoever_asks_for_a_var_is_noted_with_its_name() -> None:
    recorder = Recorder()
    values = WatchedVars({"a": 1}, recorder.var)
    assert values["a"] == values.get("a") == 1
    assert "b" not in values
    assert values.get("c", 3) == values.pop("d", 3) == values.setdefault("e", 3) == 3
    assert recorder.seen[PROJECT].vars == {"a", "b", "c", "d", "e"}


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


def test_what_a_parse_says_is_said_again_for_other_vars(parsing: Parsing) -> None:
    write(parsing.project, SAYING)
    assert parsing.how({"year": 1}) == "whole"
    for values, how in (
        ({"year": 2}, "kept"), ({"year": 3, "alias": "y"}, "partial"), ({"year": 2, "alias": "y"}, "kept"),
        ({"year": 1}, "kept"),
    ):  # fmt: skip
        assert parsing.how(values) == how
        said = parsing.lines()
        full = Parsing(parsing.project, "--no-partial-parse")
        full.manifest(values)
        assert said == full.lines()
        assert sum(f"a: year {values['year']}" in line for line in said) == 1
        assert sum("nobody" in line for line in said) == 1
    parsing.manifest({"year": 1})
    assert [line for line in parsing.lines() if "year" in line or "nobody" in line] == [], (
        "dbt parses nothing"
    )


def test_what_a_parse_says_of_its_time_is_said_anew(parsing: Parsing) -> None:
    write(
        parsing.project,
        {
            "models/a.sql": "{{ log('at ' ~ run_started_at ~ '!', info=true) }} select {{ var('v0', 1) }} as id"
        },
    )
    said = set()
    for number in (1, 2, 1, 2):
        assert parsing.how({"v0": number}) == ("whole" if not said else "kept")
        said |= {line for line in parsing.said if "at 20" in line}
    assert len(said) == 4


def test_what_no_print_leaves_out_is_printed_again_without_it(parsing: Parsing) -> None:
    write(parsing.project, {"models/a.sql": "{{ print('year ' ~ var('year', 0)) }} select 1 as id"})
    parsing.manifest({"year": 1}, "--no-print")
    assert not any("year 1" in line for line in parsing.said)
    parsing.manifest({"year": 2})
    parsing.manifest({"year": 1})
    assert sum("year 1" in line for line in parsing.said) == 1


def test_a_dbt_variable_counts_where_dbt_or_the_project_reads_it(
    parsing: Parsing, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(parsing.project, {"models/a.sql": "select '{{ env_var('DBT_MOOD', 'calm') }}' as mood"})

    def parses(name: str) -> bool:
        before = parsing.shared.parses
        monkeypatch.setenv(name, "1")
        assert not isinstance(parsing.manifest({}), str)
        return parsing.shared.parses > before

    parsing.manifest({})
    assert not parses("DBT_NOBODY_READS_IT")
    for name in (
        "DBT_MOOD",
        "DBT_FULL_REFRESH",
        "DBT_ENV_CUSTOM_ENV_TEAM",
        "DBT_ENV_SECRET_KEY",
        "DBT_ENGINE_DEBUG",
    ):
        assert parses(name), name
