"""Generates a dbt project like that of a simulation: 120 models, 870 tests, 139 vars with nested JSON.

Three quarters of the models read vars during parsing: most write a value into their SQL, some read it in a macro,
a few in ``config()``. Two models log the year during parsing. A var enables some tests and a model.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

PROJECT = """\
name: simulated
version: "1.0"
profile: simulated
model-paths: [models]
macro-paths: [macros]
flags: {send_anonymous_usage_stats: false}
vars: {scenario_label: base}
models: {simulated: {+materialized: view}}
"""
READING_PROJECT = PROJECT.replace(
    "{+materialized: view}",
    """{+materialized: view, last: {+enabled: "{{ var('with_last') == 1 }}", +schema: "{{ var('last_schema') }}"}}""",
)
PROFILES = """\
simulated:
  target: dev
  outputs:
    dev: {type: duckdb, path: "{{ env_var('DATABASE_PATH', 'simulated.duckdb') }}", threads: 1}
"""
MACROS = """\
{% macro rate(name, level) %}{{ var(name)['levels'][level | string]['rate'] }}{% endmacro %}
{% macro simulated_year() %}{{ var('simulation_year') }}{% endmacro %}
"""


_LOGGED = (4, 9)
"""Numbers of the models that log the year."""

_ENABLED = 3
"""Number of the model that a var enables."""


def write_project(
    folder: Path, models: int = 120, tests: int = 870, variables: int = 139, *, project_reads: bool = False
) -> dict[str, Any]:
    """Write the project into a new `folder`. Returns a first set of vars.

    Args:
        project_reads: dbt_project.yml reads vars: whether the last tenth of the models is enabled, and its schema.
    """
    chance = random.Random(7)
    names = [f"assumption_{each:03}" for each in range(variables - 3)]
    (folder / "models" / "last").mkdir(parents=True)
    (folder / "macros").mkdir()
    (folder / "dbt_project.yml").write_text(READING_PROJECT if project_reads else PROJECT)
    (folder / "profiles.yml").write_text(PROFILES)
    (folder / "macros" / "assumptions.sql").write_text(MACROS)
    entries = []
    for number in range(models):
        name = f"m{number:03}"
        last = project_reads and number >= models - models // 10
        (folder / "models" / ("last" if last else "") / f"{name}.sql").write_text(
            _model(number, names, chance)
        )
        wanted = tests // models + (number < tests % models)
        entries.append(_entry(name, wanted))
        if len(entries) == 12 or number == models - 1:
            text = json.dumps({"version": 2, "models": entries})  # JSON is YAML
            (folder / "models" / f"properties_{number:03}.yml").write_text(text)
            entries = []
    return {
        "simulation_year": 2025,
        "alias_suffix": "a",
        "with_checks": 0,
        "with_last": 1,
        "last_schema": "a",
        **{name: _assumption(chance) for name in names},
    }


def write_small_project(folder: Path, models: int) -> Path:
    """Write a project of models without refs, of which the first logs a var, into a new `folder`."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(PROJECT)
    (folder / "profiles.yml").write_text(PROFILES)
    for number in range(models):
        log = "{{ log('y ' ~ var('y', 0), info=true) }} " if number == 0 else ""
        (folder / "models" / f"m{number:03}.sql").write_text(f"{log}select 1 as id\n")
    return folder


def _assumption(chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.6:
        return round(chance.random(), 4)
    levels = {str(level): {"rate": round(chance.random(), 4)} for level in range(1, 6)}
    return {"levels": levels} if kind < 0.8 else [round(chance.random(), 3) for _ in range(8)]


def _model(number: int, names: list[str], chance: random.Random) -> str:
    parents = [each for each in chance.sample(range(number), min(number, 2)) if each != _ENABLED]
    lines = []
    if number in _LOGGED:
        lines.append(f"{{{{ log('m{number:03} of year ' ~ var('simulation_year'), info=true) }}}}")
    if number == _ENABLED:
        lines.append("{{ config(enabled=var('with_checks') == 1) }}")
    if number % 4:  # three quarters
        if number % 40 == 1:
            lines.append(f"{{{{ config(alias='m{number:03}_' ~ var('alias_suffix')) }}}}")
        read = chance.sample(names, 2)
        lines += [
            "{% set year = var('simulation_year') | int %}",
            # dollar quotes: the text of a nested value contains quotes
            "select {{ year }} as simulation_year, $${{ var('" + read[0] + "') }}$$ as assumption,",
            "       $${{ var('" + read[1] + "', 0) }}$$ as other, {{ simulated_year() }} - 1 as year_before,",
        ]
    else:
        lines += ["select 2025 as simulation_year, '' as assumption, '' as other, 2024 as year_before,"]
    lines += [f"       {number} as id, 'one' as kind"]
    lines += ["{% if is_incremental() %} -- only new rows {% endif %}"] if number % 3 == 0 else []
    lines += [f"from (select 1) {'cross join ' if parents else ''}"]
    lines += [" cross join ".join(f"{{{{ ref('m{each:03}') }}}} as p{each:03}" for each in parents)]
    return "\n".join(lines) + "\n"


def _entry(name: str, tests: int) -> dict[str, Any]:
    """Properties of a model with `tests` tests, a third of them with arguments."""
    columns: list[dict[str, Any]] = [
        {"name": column, "description": f"{column} of {name}", "data_tests": []}
        for column in ("id", "simulation_year", "assumption", "other", "year_before", "kind")
    ]
    for number in range(tests):
        column, round_ = number % len(columns), number // len(columns)
        one_of = {"accepted_values": {"arguments": {"values": ["one", str(number)]}}}
        test: Any = ("not_null", "unique", one_of)[(column + round_) % 3]
        if test == "unique" and number == 6 and name.endswith("0"):
            test = {"unique": {"config": {"enabled": "{{ var('with_checks') == 1 }}"}}}
        columns[column]["data_tests"].append(test)
    return {"name": name, "description": f"Model {name}", "columns": columns}
