"""Generates small random dbt projects that read vars during the parse, in every place where a project can.

Most of the projects and vars are valid: a project that dbt refuses has no manifest to compare.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

NAMES = ("v0", "v1", "v2", "nested", "which")
_VALUES: tuple[Any, ...] = (
    1,
    2,
    "1",
    "two",
    True,
    False,
    None,
    0.5,
    ["a", "b"],
    ["b"],
    {"k": 1, "l": [1]},
    {"l": [1], "k": 1},
)

PROFILES = """\
reading:
  target: dev
  outputs:
    dev: {type: duckdb, path: "{{ env_var('RELAY_TEST_DUCKDB', 'reading.duckdb') }}", schema: main, threads: 1}
"""
MACROS = """\
{% macro reads(name) %}{{ var(name, 0) }}{% endmacro %}
{% macro reads_deeper(name) %}{{ reads(name) }}{% endmacro %}
{% macro tagged(name) %}{{ config(tags=['t' ~ var(name, 'none')]) }}{% endmacro %}
{% macro quiet() %}1{% endmacro %}
{% test above(model, column_name, limit=0) %}
select * from {{ model }} where {{ column_name }} <= {{ limit }} and {{ var('v0', 1) | string | length }} < 0
{% endtest %}
{% test configured(model, column_name) %}
{{ config(fail_calc='count(*) + ' ~ (var('v1', 0) | string | length)) }}
{% if var('v1', 0) == 1 %}{{ log('configured ' ~ model, info=True) }}{% endif %}
select * from {{ model }} where {{ column_name }} is null
{% endtest %}
"""
# each reads the var NAME, in the file FILE.sql; a parse keeps the effect of some of them
SQL = (
    "-- {{ var('NAME', 1) }}",
    "-- {{ var('NAME') }}",
    "-- {{ reads_deeper('NAME') }}",
    "-- {{ env_var('MOOD', 'calm') ~ var('NAME', 1) }}",
    "{% set x = var('nested', {}) %}-- {{ x.k if x is mapping else x }} {{ var('NAME', 1) }}",
    "{{ config(alias='FILE_' ~ (var('NAME', 'x') | string | length)) }}",
    "{{ config(tags=[var('NAME', 't') | string]) }}",
    "{{ config(meta={'v': var('NAME', none)}) }}",
    "{{ config(materialized='table' if var('NAME', 1) else 'view') }}",
    "{{ config(schema='s' ~ (var('NAME', 's') | string | length)) }}",
    "{{ config(enabled=(var('NAME', 1) | string != '2')) }}",
    "{{ config(post_hook=\"select '{{ var('NAME', 0) | string | length }}' as a\") }}",
    "{{ config(post_hook='select ' ~ (var('NAME', 0) | string | length)) }}",
    "{{ config(pre_hook=\"{% if var('NAME', 0) == 1 %}select 1 from {{ ref('leaf') }}{% endif %}\") }}",
    "{{ config(group='team', access='private' if var('NAME', 1) == 2 else 'protected') }}",
    "{% if var('NAME', 0) == 1 %}-- {{ ref('leaf') }}{% else %}-- {{ source('raw', 'one') }}{% endif %}",
    "{% if var.has_var('NAME') %}{{ config(tags=['has']) }}{% endif %}",
    "{% if var('NAME', 0) == 'two' %}-- {{ quiet() }}{% endif %}",
    "-- {{ ref('leaf' if var('which', 'leaf') == 'leaf' else 'other') }} {{ var('NAME', 0) }}",
    "{{ tagged('NAME') }}",
    "-- {{ run_started_at }} {{ var('NAME', 0) }}",
    "-- {{ this }} {{ model.name }} {{ config.get('materialized') }} {{ var('NAME', 0) }}",
    "{% do log('NAME is ' ~ var('NAME', 0), info=True) %}",
    "{% do log('debug: ' ~ var('NAME', 0)) %}{{ log('no var', info=True) }}",
    "{{ print('NAME ' ~ var('NAME', 0)) }}{{ config(tags=[var('NAME', 't') | string]) }}",
    "{% if var('NAME', 0) == 2 %}{% do exceptions.warn('NAME is 2') %}{% endif %}",
    "{% set all = var('NAME', {}) %}{% for key in (all if all is iterable else []) %}-- {{ key }}{% endfor %}",
    "-- nothing",
)  # fmt: skip
# sections of dbt_project.yml, merged at random
CONFIGS: tuple[dict[str, Any], ...] = (
    {"on-run-start": ["select '{{ var('NAME', 0) | string | length }}' as a"]},
    {
        "on-run-end": [
            "{% if var('NAME', 0) == 1 %}select 1 from {{ ref('leaf') }}{% else %}select 1{% endif %}",
            "{{ log('end ' ~ var('NAME', 0), info=True) }}",
        ]
    },
    {"query-comment": "{{ var('NAME', 'q') }}"},
    {"vars": {"reading": {"v0": 2}, "v1": "two"}},
    {"vars": {"extra": {"v2": 1, "nested": {"k": 5}}}},
    {"models": {"reading": {"+meta": {"p": "{{ var('NAME', 'p') }}", "q": 1}}}},
    {"models": {"+meta": {"r": "{{ var('NAME', 'r') }}"}, "reading": {"+tags": "all"}}},
    {"models": {"reading": {"+tags": ["{{ 't' ~ (var('NAME', 't') | string | length) }}"], "marts": {"+tags": "marts"}}}},
    {"models": {"reading": {"marts": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}}},
    {"models": {"reading": {"marts": {"deep": {"+enabled": "{{ var('NAME', 1) == 1 }}", "+schema": "deep"}}}}},
    {"models": {"reading": {"marts": {"enabled": "{{ var('NAME', 1) is not none }}"}}}},
    {"models": {"reading": {"marts": {"+schema": "s{{ var('NAME', 1) | string | length }}"}}}},
    {"models": {"+schema": "{{ 's' if var('NAME', 1) == 1 else none }}"}},
    {"models": {"reading": {"m1": {"+alias": "a_{{ var('NAME', 'x') | string | length }}"}}}},
    {"models": {"reading": {"marts": {"+materialized": "{{ 'ephemeral' if var('NAME', 1) == 1 else 'table' }}"}}}},
    {"models": {"reading": {"marts": {"+group": "{{ 'team' if var('NAME', 1) else none }}"}}}},
    {"models": {"reading": {"+docs": {"show": "{{ var('NAME', 1) == 1 }}"}, "versioned": {"v1": {"+tags": "{{ var('NAME', 1) | string }}"}}}}},
    {"models": {"reading": {"marts": {"meta": "{{ {'n': var('nested', none)} }}"}}}},
    {"models": {"reading": {"+post-hook": "select '{{ var('NAME', 0) | string | length }}' as a"}}},
    {"models": {"reading": {"marts": {"+post-hook": "{% if var('NAME', 0) == 1 %}select 1 from {{ ref('leaf') }}{% endif %}"}}}},
    {"models": {"extra": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}},
    {"models": {"extra": {"+materialized": "{{ 'table' if var('NAME', 1) else 'view' }}"}}},
    {"models": {"reading": {"+enabled": "{{ target.name == 'dev' or var('NAME', 1) == 1 }}"}}},
    {"data_tests": {"reading": {"+severity": "{{ 'warn' if var('NAME', 1) == 1 else 'error' }}"}}},
    {"tests": {"reading": {"marts": {"+enabled": "{{ var('NAME', 1) == 1 }}"}}}},
    {"tests": {"+store_failures": "{{ var('NAME', 1) is string }}", "+tags": ["tested"]}},
    {"seeds": {"reading": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}},
    {"seeds": {"reading": {"seeded": {"+column_types": {"id": "{{ 'int' if var('NAME', 1) else 'text' }}"}}}}},
    {"snapshots": {"reading": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}},
    {"snapshots": {"+meta": {"s": "{{ var('NAME', 's') }}"}}},
    {"sources": {"reading": {"hidden": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}}},
    {"sources": {"reading": {"raw": {"+meta": {"s": "{{ var('NAME', 's') }}"}}}}},
    {"exposures": {"reading": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}}},
    {"unit_tests": {"reading": {"+tags": ["{{ var('NAME', 'u') | string }}"]}}},
    {"unit_tests": {"+enabled": "{{ var('NAME', 1) | string != '2' }}"}},
)  # fmt: skip
TESTS: tuple[Any, ...] = (
    "not_null",
    "unique",
    {"accepted_values": {"arguments": {"values": "{{ [var('NAME', 'a')] }}"}}},
    {"accepted_values": {"arguments": {"values": [1, 2]}, "config": {"where": "1 = {{ var('NAME', 1) | string | length }}"}}},
    {"above": {"arguments": {"limit": "{{ var('NAME', 0) | string | length }}"}}},
    {"relationships": {"arguments": {"to": "ref('leaf')", "field": "{{ 'id' if var('NAME', 1) else 'id' }}"}}},
    {"relationships": {"arguments": {"to": "{{ 'ref(\"leaf\")' if var('NAME', 1) else 'ref(\"leaf\")' }}", "field": "id"}}},
    {"not_null": {"config": {"enabled": "{{ var('NAME', 1) != 2 }}"}}},
    {"accepted_values": {"values": [1, 2]}},  # a deprecation
    {"relationships": {"arguments": {"to": "ref('m0')", "field": "id"}}},
    {"configured": {}},
    {"not_null": {"config": {"tags": ["{{ var('NAME', 't') | string }}"], "severity": "warn"}}},
)  # fmt: skip


FOLDERS = ("", "", "marts/", "marts/", "marts/deep/")


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`one` with the entries of `other`, dicts merged."""
    result = dict(one)
    for name, value in other.items():
        before = result.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[name] = _merged(before, value) if both else value
    return result


class ReadingProject:
    """A random project and random vars for it, from a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._required: set[str] = set()

    def values(self) -> dict[str, Any]:
        """Random vars of an invocation."""
        chosen = {
            name: self._chance.choice(_VALUES)
            for name in NAMES
            if name in self._required or self._chance.random() < 0.7
        }
        if "which" in chosen:
            chosen["which"] = self._chance.choice(("leaf", "other"))
        return chosen

    def changed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Copy of `values` with one or two vars changed, added or removed."""
        result = dict(values)
        for name in self._chance.sample(NAMES, self._chance.choice((1, 1, 2))):
            if name in result and self._chance.random() < (0.02 if name in self._required else 0.25):
                del result[name]
            elif name == "which":
                result[name] = self._chance.choice(("leaf", "other"))
            else:
                result[name] = self._chance.choice(_VALUES)
        return result

    def write(self, folder: Path) -> None:
        """Write the project."""
        files: dict[str, str] = {
            "profiles.yml": PROFILES,
            "macros/all.sql": MACROS,
            "models/leaf.sql": "select 1 as id, 'a' as kind",
            "models/other.sql": "select 1 as id, 'a' as kind",
            "seeds/seeded.csv": "id\n1\n",
            "models/docs.md": "{% docs block %}A block.{% enddocs %}",
            "extra/dbt_project.yml": yaml.safe_dump(self._package()),
            "extra/models/from_package.sql": self._sql() + "select 1 as id",
            "extra/macros/of_package.sql": "{% macro of_package() %}{{ var('v2', 1) }}{% endmacro %}",
            "packages.yml": "packages: [{local: extra}]\n",
        }
        project = {
            "name": "reading", "version": "1.0", "config-version": 2, "profile": "reading",
            "flags": {"send_anonymous_usage_stats": False},
        }  # fmt: skip
        for section in self._chance.sample(CONFIGS, self._chance.choice((0, 1, 2, 2, 3))):
            project = _merged(project, self._named(section))
        if "tests" in project and "data_tests" in project:  # dbt refuses both
            project["data_tests"] = _merged(project.pop("tests"), project["data_tests"])
        files["dbt_project.yml"] = yaml.safe_dump(project)
        seeded = ["seeded"] if "+enabled" not in str(project.get("seeds")) else []
        names, steady, referred = self._models(files, ["leaf", "leaf", *seeded])
        target = "m0" if "m0" in steady and "models/m0.sql" in files else "leaf"
        properties = self._properties(names, referred | {target}, target)
        if self._chance.random() < 0.3:
            for version in (1, 2):
                files[f"models/marts/versioned_v{version}.sql"] = f"{self._sql()}select 1 as id"
            entry = self._entry("versioned")
            config = {"alias": entry["config"].pop("alias")} if "alias" in entry["config"] else {}
            properties["models"].append(entry | {"versions": [{"v": 1, "config": config}, {"v": 2}]})
        described = [
            entry for entry in properties["models"] if "versions" in entry or self._chance.random() < 0.3
        ]
        properties["models"] = [entry for entry in properties["models"] if entry not in described]
        files["models/properties.yml"] = yaml.safe_dump(properties)
        files["models/marts/properties.yml"] = yaml.safe_dump({"models": described})
        if self._chance.random() < 0.5:
            files["tests/single.sql"] = (
                f"{self._sql(without='materialized')}"
                f"select * from {{{{ ref('{self._chance.choice(('leaf', 'm0'))}') }}}} where id is null"
            )
            if self._chance.random() < 0.3:
                single = {"name": "single", "description": "{{ 'is ' ~ var('NAME', 1) }}"}
                files["tests/single.yml"] = yaml.safe_dump({"data_tests": [self._named(single)]})
        if self._chance.random() < 0.4:
            files["snapshots/kept.sql"] = (
                "{% snapshot kept %}{{ config(unique_key='id', strategy='check', check_cols='all') }}\n"
                f"{self._sql('-- ')}select * from {{{{ ref('leaf') }}}}\n{{% endsnapshot %}}"
            )
        if self._chance.random() < 0.4:
            files["analyses/looked.sql"] = f"{self._sql()}select 1 from {{{{ ref('leaf') }}}}"
        if self._chance.random() < 0.25:
            files["macros/names.sql"] = self._named(
                "{% macro generate_alias_name(custom_alias_name=none, node=none) %}"
                "{{ custom_alias_name or node.name ~ (node.version or '') }}{{ '_x' if var('NAME', 0) == 1 }}{% endmacro %}"
            )
        self._required = {each for each in NAMES if any(f"var('{each}')" in text for text in files.values())}
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("FILE", path.stem))
        (folder / "dbt_packages").mkdir()
        (folder / "dbt_packages" / "extra").symlink_to(folder / "extra", target_is_directory=True)

    def _models(self, files: dict[str, str], roots: list[str]) -> tuple[list[str], set[str], set[str]]:
        """Add models to `files`. Returns their names, those that their SQL never disables, and those that others refer to."""
        folders = {f"m{number}": self._chance.choice(FOLDERS) for number in range(self._chance.randint(2, 5))}
        names = list(folders)
        steady: set[str] = set()
        referred: set[str] = set()
        for number, name in enumerate(names):
            # few models refer to one that may be disabled or private without them
            parents = [each for each in names[:number] if folders[name].startswith(folders[each])]
            parents = [each for each in parents if each in steady or self._chance.random() < 0.05]
            parent = self._chance.choice([*roots, *parents])
            referred.add(parent)
            sql = self._sql() + self._sql()
            if not any(word in sql for word in ("enabled", "private")):
                steady.add(name)
            files[f"models/{folders[name]}{name}.sql"] = (
                f"{sql}select 1 as id, 'a' as kind from {{{{ ref('{parent}') }}}}"
            )
        return names, steady, referred

    def _package(self) -> dict[str, Any]:
        """dbt_project.yml of a package. dbt renders it without the vars of the command line."""
        package = {"name": "extra", "version": "1.0", "config-version": 2, "vars": {"v2": 2}}
        config = self._chance.choice(({}, {"models": {"extra": {"+meta": {"e": "{{ var('NAME', 'e') }}"}}}}))
        return package | self._named(config)

    def _properties(self, names: list[str], referred: set[str], target: str) -> dict[str, Any]:
        """Entries of the models and the rest. What others refer to is always enabled. `target`: a model for an exposure."""
        models = [self._entry(name) for name in names if self._chance.random() < 0.8]
        found: dict[str, Any] = {
            "version": 2,
            "groups": [{"name": "team", "owner": {"email": "team@example.com"}}],
            "models": [{"name": "leaf", "columns": [{"name": "id", "data_tests": self._tests()}]}, *models],
            "sources": [
                {
                    "name": "raw",
                    "schema": self._named(self._chance.choice(("raw", "{{ 'r' ~ var('NAME', 'r') }}"))),
                    "tables": [{"name": "one", "columns": [{"name": "id", "data_tests": self._tests()}]}],
                },
                {"name": "hidden", "tables": [{"name": "one", "columns": [{"name": "id", "data_tests": self._tests()}]}]},
            ],
        }  # fmt: skip
        if self._chance.random() < 0.4:
            found["seeds"] = [self._entry("seeded")]
        for entry in (*models, *found.get("seeds", ())):
            if entry["name"] in referred:
                entry["config"].pop("enabled", None)
        if self._chance.random() < 0.3:
            found["exposures"] = [
                {"name": "shown", "type": "dashboard", "owner": {"email": "team@example.com"}, "depends_on": [f"ref('{self._chance.choice(('leaf', target))}')"],
                 "description": self._named(self._chance.choice(("shown", "{{ var('NAME', 'shown') | string }}")))}
            ]  # fmt: skip
        if self._chance.random() < 0.25:
            found["snapshots"] = [
                {"name": "of_yaml", "relation": "ref('leaf')",
                 "config": {"unique_key": "id", "strategy": "check", "check_cols": "all",
                            "meta": {"v": self._named(self._chance.choice(("m", "{{ var('NAME', 'm') }}")))}}}
            ]  # fmt: skip
        if self._chance.random() < 0.25:
            found["unit_tests"] = [
                {"name": "unit", "model": self._chance.choice(("leaf", "m0")), "given": [], "expect": {"rows": [{"id": 1, "kind": "a"}]},
                 "overrides": {"vars": {"v0": 1}}}
            ]  # fmt: skip
        return found

    def _entry(self, name: str) -> dict[str, Any]:
        config: dict[str, Any] = self._chance.choice(
            (
                {}, {}, {"meta": {"y": "{{ var('NAME', 'y') }}"}}, {"enabled": "{{ var('NAME', 1) != 2 }}"},
                {"tags": ["{{ var('NAME', 'tag') | string }}"]}, {"alias": "renamed_{{ var('NAME', 'a') | string | length }}_" + name},
            )
        )  # fmt: skip
        description = self._chance.choice(("plain", "{{ doc('block') }}", "of {{ var('NAME', 1) }}", ""))
        return self._named(
            {
                "name": name, "description": description, "config": config,
                "columns": [{"name": "id", "description": self._chance.choice(("", "x")), "data_tests": self._tests()}],
            }
        )  # fmt: skip

    def _tests(self) -> list[Any]:
        chosen = self._chance.sample(TESTS[1:], self._chance.randint(0, 2))
        by_kind = {test if isinstance(test, str) else next(iter(test)): test for test in chosen}
        return [self._named(test) for test in by_kind.values()]  # dbt refuses two of the same name

    def _sql(self, start: str = "", without: str = "\0") -> str:
        fitting = [text for text in SQL if text.startswith(start) and without not in text]
        return self._named(self._chance.choice(fitting)) + "\n"

    def _named(self, plain: Any) -> Any:
        """Replace NAME in `plain` with the name of a random var."""
        if isinstance(plain, str):
            return plain.replace("NAME", self._chance.choice(NAMES[:3]))
        if isinstance(plain, dict):
            return {key: self._named(value) for key, value in plain.items()}
        return [self._named(value) for value in plain] if isinstance(plain, list) else plain
