"""A generated dbt project with the shape of a large one that many packages have grown.

At its full size it has 800 models, 1,100 tests, 25 schemas, 600 macros in the project and four local packages, and a
manifest.json of about 40 MB. Nothing is random: equal sizes give equal files. All SQL is cheap and runs on DuckDB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.projects import install_local_packages

PACKAGES = ("kit_text", "kit_time", "kit_math", "kit_audit")
_OWN = ("big", *PACKAGES)


@dataclass(frozen=True)
class Size:
    """Size of the project.

    Attributes:
        models, tests, schemas, macros: totals of the project and its packages.
        columns: described columns of each model.
        words: words of each description.
    """

    models: int = 800
    tests: int = 1100
    schemas: int = 25
    macros: int = 600
    columns: int = 45
    words: int = 72


FULL = Size()
PART = Size(models=64, tests=88, schemas=25, macros=90, columns=8, words=12)
"""A size that is small enough for a test, with every kind of resource."""


def write_big_project(folder: Path, size: Size = FULL) -> Path:
    """Write the project, with its packages installed.

    Args:
        folder: is created.

    Returns:
        `folder`. Its profile writes the DuckDB file that DATABASE_PATH names.
    """
    for number, package in enumerate(PACKAGES):
        _write_package(folder / "local" / package, number, package, size)
    _json(folder / "packages.yml", {"packages": [{"local": f"local/{name}"} for name in PACKAGES]})
    _json(folder / "dbt_project.yml", _project(size))
    output = {"type": "duckdb", "path": "{{ env_var('DATABASE_PATH', 'big.duckdb') }}", "threads": 4}
    _json(folder / "profiles.yml", {"big": {"target": "dev", "outputs": {"dev": output}}})
    _write_macros(folder, 0, "big", size)
    _write(folder / "models" / "docs.md", _docs(size))
    _write(folder / "seeds" / "codes.csv", "id,code\n1,a\n2,b\n3,c\n")
    entries: list[dict[str, Any]] = []
    for number in range(size.models):
        if _package_of(number) != "big":
            continue
        _write(
            folder / "models" / f"area_{number % size.schemas:02}" / f"{model(number)}.sql",
            _sql(number, size),
        )
        entries.append(_entry(number, size))
        if len(entries) == 20:
            _properties(folder, number, entries)
            entries = []
    _properties(folder, size.models, entries)
    tables = [{"name": f"raw_{n}", "identifier": "schemata", "description": _text(n, size)} for n in range(5)]
    source = {"name": "catalog", "database": "system", "schema": "information_schema", "tables": tables}
    _json(
        folder / "models" / "sources.yml", {"version": 2, "sources": [source], "exposures": _exposures(size)}
    )
    _write(folder / "tests" / "codes_are_known.sql", "select * from {{ ref('codes') }} where code is null\n")
    install_local_packages(folder)
    return folder


def model(number: int) -> str:
    """Name of a model."""
    return f"m_{number:04}"


def _package_of(number: int) -> str:
    """Package of a model: one model in eight belongs to a package, the others to the project."""
    return PACKAGES[number // 8 % len(PACKAGES)] if number % 8 == 0 else "big"


def _project(size: Size) -> dict[str, Any]:
    areas = {
        f"area_{n:02}": {
            "+schema": f"area_{n:02}",
            "+tags": [f"area_{n:02}"],
            "+meta": {"owner": f"team_{n % 7}"},
        }
        for n in range(size.schemas)
    }
    return {
        "name": "big", "version": "1.0", "profile": "big", "flags": {"send_anonymous_usage_stats": False},
        # the project's stamp macros override those of one package
        "dispatch": [{"macro_namespace": "kit_text", "search_order": ["big", "kit_text"]}],
        "vars": {"horizon": 3}, "models": {"big": {"+materialized": "view", **areas}},
        "on-run-end": ["{{ kit_audit.close_run() }}"],
    }  # fmt: skip


def _write_package(folder: Path, number: int, package: str, size: Size) -> None:
    project = {
        "name": package,
        "version": "1.0",
        "models": {package: {"+schema": package, "+materialized": "table"}},
    }
    _json(folder / "dbt_project.yml", project)
    _write_macros(folder, number + 1, package, size)
    own = [each for each in range(size.models) if _package_of(each) == package]
    for each in own:
        _write(folder / "models" / f"{model(each)}.sql", _sql(each, size))
    entries = [_entry(each, size) for each in own]
    _json(folder / "models" / "models.yml", {"version": 2, "models": entries})


def _write_macros(folder: Path, number: int, package: str, size: Size) -> None:
    """Write macros in threes: one that dispatches, its default, and the one for DuckDB."""
    wanted = size.macros // len(_OWN)
    texts = [_MACROS.replace("PACKAGE", package).replace("NUMBER", str(each)) for each in range(wanted // 3)]
    for part in range(0, len(texts), 10):
        _write(folder / "macros" / f"stamps_{part:03}.sql", "\n".join(texts[part : part + 10]))
    if package == "kit_math":
        _write(folder / "macros" / "in_range.sql", _IN_RANGE)
    if package == "kit_audit":
        _write(folder / "macros" / "close_run.sql", _CLOSE_RUN)
    described = [
        {"name": f"stamp_{each}", "description": _text(number * 100 + each, size),
         "arguments": [{"name": "column", "type": "string", "description": "A column."}]}
        for each in range(wanted // 3)
    ]  # fmt: skip
    _json(folder / "macros" / "macros.yml", {"version": 2, "macros": described})


_MACROS = """\
{# Marks a value with its origin. #}
{% macro stamp_NUMBER(column) -%}
  {{ return(adapter.dispatch('stamp_NUMBER', 'PACKAGE')(column)) }}
{%- endmacro %}
{% macro default__stamp_NUMBER(column) -%}
  {%- if execute and target.type == 'nothing' -%}{{ exceptions.raise_compiler_error('no such warehouse') }}{%- endif -%}
  {%- set parts = [] -%}
  {%- for each in range(3) -%}{%- do parts.append(column ~ ' + ' ~ each) -%}{%- endfor -%}
  ({{ parts | join(' - ') }})
{%- endmacro %}
{% macro duckdb__stamp_NUMBER(column) -%}
  coalesce({{ column }}, NUMBER)
{%- endmacro %}
"""
_IN_RANGE = """\
{% test in_range(model, column_name, least=0, most=none) %}
  {{ adapter.dispatch('test_in_range', 'kit_math')(model, column_name, least, most) }}
{% endtest %}
{% macro default__test_in_range(model, column_name, least, most) %}
  select {{ column_name }} from {{ model }}
  where {{ column_name }} < {{ least }}{% if most is not none %} or {{ column_name }} > {{ most }}{% endif %}
{% endmacro %}
"""
_CLOSE_RUN = """\
{% macro close_run() %}
  {% if execute %}{{ log('closed with ' ~ (results | length) ~ ' results', info=true) }}{% endif %}
  select 1
{% endmacro %}
"""


def _sql(number: int, size: Size) -> str:
    parents = sorted({number // 2, number - 3} - {number}) if number >= 8 else []
    macro = f"{_OWN[number % len(_OWN)]}.stamp_{number % max(1, size.macros // len(_OWN) // 3)}"
    kind = ("table", "view", "view", "incremental", "view", "ephemeral")[number % 6]
    config = f"materialized='{kind}', meta={{'rank': {number}, 'reviewed': true}}"
    config += ", unique_key='id'" if kind == "incremental" else ""
    columns = ",\n".join(f"    {number + each} as c_{each:02}" for each in range(1, size.columns))
    if not parents:
        of_catalog = "(select 1 as id from {{ source('catalog', 'raw_0') }} limit 1)"
        # packages cannot use the project's seed
        origin = "{{ ref('codes') }}" if number % 2 else of_catalog if number else "(select 1 as id)"
        return f"{{{{ config({config}) }}}}\nselect\n    id,\n    {{{{ {macro}('id') }}}} as stamped,\n{columns}\nfrom {origin}\n"
    first, *others = [f"{{{{ ref('{model(each)}') }}}}" for each in parents]
    joins = "".join(f"left join {other} as o{n} on o{n}.id = p.id\n" for n, other in enumerate(others))
    # dbt's static parser cannot read this, so it renders the model
    horizon = "{% if var('horizon') > 2 %}1{% else %}0{% endif %} as far,\n    " if number % 4 == 0 else ""
    return (
        f"{{{{ config({config}) }}}}\nselect\n    p.id,\n    {horizon}{{{{ {macro}('p.id') }}}} as stamped,\n{columns}\n"
        f"from {first} as p\n{joins}"
    )


def _entry(number: int, size: Size) -> dict[str, Any]:
    columns: list[dict[str, Any]] = [
        {"name": f"c_{each:02}", "description": _text(number + each, size), "data_type": "integer",
         "meta": {"source_of_truth": f"ledger_{each % 5}", "contains_pii": False, "order": each},
         "tags": [f"kind_{each % 3}"]}
        for each in range(1, size.columns)
    ]  # fmt: skip
    columns.insert(0, {"name": "id", "description": _text(number, size)})
    tests = size.tests // size.models + (number < size.tests % size.models)
    columns[0]["tests"] = [_test(number, each) for each in range(tests)]
    shared = " {{ doc('what_" + str(number % 20) + "') }}" if _package_of(number) == "big" else ""
    return {
        "name": model(number), "description": _text(number, size) + shared,
        "meta": {"owner": f"team_{number % 7}", "service_level": {"hours": number % 24}}, "columns": columns,
    }  # fmt: skip


def _test(number: int, which: int) -> Any:
    return (
        "not_null",
        {"kit_math.in_range": {"least": 0, "most": number + 10, "config": {"severity": "warn", "where": "id > 0"}}},
        {"accepted_values": {"values": [1, 2, 3], "quote": False}},
        {"kit_math.in_range": {"least": 2, "config": {"severity": "warn", "tags": ["strict"]}}},
    )[(number + which) % 4]  # fmt: skip


def _exposures(size: Size) -> list[dict[str, Any]]:
    return [
        {"name": f"board_{each}", "type": "dashboard", "owner": {"name": "A team"}, "description": _text(each, size),
         "depends_on": [f"ref('{model(each * 3 + 1)}')"]}
        for each in range(10)
    ]  # fmt: skip


_WORDS = [
    "balance",
    "account",
    "order",
    "region",
    "value",
    "period",
    "ledger",
    "total",
    "share",
    "measure",
    "entry",
    "period",
    "rate",
    "group",
    "cost",
]


def _text(number: int, size: Size) -> str:
    """A description, whose words depend on the number."""
    words = (_WORDS[(number + each * each) % len(_WORDS)] for each in range(size.words))
    return f"Number {number}: {' '.join(words)}."


def _docs(size: Size) -> str:
    blocks = (f"{{% docs what_{each} %}}\n{_text(each, size)}\n{{% enddocs %}}\n" for each in range(20))
    return "\n".join(blocks)


def _properties(folder: Path, number: int, entries: list[dict[str, Any]]) -> None:
    if entries:
        _json(folder / "models" / f"properties_{number:04}.yml", {"version": 2, "models": entries})


def _json(path: Path, plain: Any) -> None:
    """JSON is YAML."""
    _write(path, json.dumps(plain, indent=1))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
