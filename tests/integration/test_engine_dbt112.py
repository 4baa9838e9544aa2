"""Features of dbt-core 1.12: the engine behaves as plain dbt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.version import __version__

from tests.support.engine import Ran, Shared, drive, spec_for
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse

pytestmark = pytest.mark.skipif(
    tuple(map(int, __version__.split(".")[:2])) < (1, 12), reason="needs dbt-core 1.12"
)

PROFILES = """\
p:
  target: dev
  outputs: {dev: {type: duckdb, path: "{{ env_var('RELAY_TEST_DUCKDB') }}", threads: 1}}
"""
PROJECT = "{name: p, version: '1.0', profile: p, flags: {send_anonymous_usage_stats: false}}"


@pytest.fixture(autouse=True)
def _closed_warehouse() -> Iterator[None]:
    yield
    close_warehouse()


@pytest.fixture
def project(tmp_path: Path, duckdb_file: Path) -> Callable[[Mapping[str, str]], Path]:
    """Return a function that writes a project with the given files."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in {"profiles.yml": PROFILES, "dbt_project.yml": PROJECT, **files}.items():
            path = tmp_path / "p" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "p"

    return write


def plain(project: Path, *args: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Run plain dbt; return statuses by unique id."""
    subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), *args], cwd=project, env={**os.environ, **(env or {})},
        capture_output=True, check=False,
    )  # fmt: skip
    results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    return {each["unique_id"]: each["status"] for each in results}


def by_id(ran: Ran) -> dict[str, str]:
    return {each["unique_id"]: each["status"] for each in (ran.finished.run_results or {})["results"]}


def rows(file: Path, query: str) -> list[Any]:
    with duckdb.connect(str(file)) as connection:
        return connection.execute(query).fetchall()


SHOWN = 'select \'{{ env_var("SHOWN", "default") }}\' as shown, \'{{ env_var("OTHER", "none") }}\' as other'


def test_env_file_of_the_working_directory_is_loaded_as_by_dbt(
    project: Callable[[Mapping[str, str]], Path], duckdb_file: Path
) -> None:
    folder = project({"models/m.sql": SHOWN, ".env": "SHOWN=from_file\nOTHER=x${SHOWN}\n"})
    engines = [Engine(shared := Shared()), Engine(shared)]
    query = "select * from main.m"
    for env in ({}, {"SHOWN": "from_environment"}):
        assert plain(folder, "run", env=env) == {"model.p.m": "success"}
        expected = rows(duckdb_file, query)
        assert drive(engines, spec_for(folder, "run", env=env)).finished.return_code == 0
        close_warehouse()
        assert rows(duckdb_file, query) == expected
    assert expected == [("from_environment", "xfrom_environment")]
    assert "SHOWN" not in os.environ

    (folder / ".env").write_text("SHOWN=changed\n")
    drive(engines, spec_for(folder, "run"))
    close_warehouse()
    assert rows(duckdb_file, query) == [("changed", "none")]


def test_env_file_of_a_parent_folder_sets_options_and_its_secrets_are_masked(
    project: Callable[[Mapping[str, str]], Path], duckdb_file: Path
) -> None:
    folder = project({"models/m.sql": "select 1 as id", "macros/say.sql": (
        "{% macro say() %}{{ print('word: ' ~ env_var('PLAIN_WORD')) }}{% endmacro %}")})  # fmt: skip
    (folder / "dbt_project.yml").write_text(PROJECT[:-1] + ', on-run-start: ["{{ say() }}"]}')
    above = folder.parent / ".env"
    above.write_text("DBT_TARGET_PATH=elsewhere\nPLAIN_WORD=hush_hush\nDBT_ENV_SECRET_WORD=hush_hush\n")
    ran = drive(Engine(Shared()), spec_for(folder, "run"))
    assert ran.finished.return_code == 0
    assert (folder / "elsewhere" / "run_results.json").is_file()
    assert "word: *****" in ran.lines
    assert not any("hush_hush" in line for line in ran.lines)


def test_invalid_utf8_in_env_file_is_an_error_with_its_path(
    project: Callable[[Mapping[str, str]], Path],
) -> None:
    folder = project({"models/m.sql": "select 1 as id"})
    (folder / ".env").write_bytes(b"A=\xff\xfe")
    ran = drive(Engine(Shared()), spec_for(folder, "run"))
    assert ran.finished.return_code == 2
    assert any(str(folder / ".env") in line and "not text" in line for line in ran.lines)


ON_ERROR = {
    "models/stops.sql": "select no_such_column",
    "models/goes_on.sql": "{{ config(on_error='continue') }} select no_such_column",
    "models/below_stops.sql": "select 1 as id -- {{ ref('stops') }}",
    "models/below_goes_on.sql": "select 1 as id -- {{ ref('goes_on') }}",
    "models/below_both.sql": "select 1 as id -- {{ ref('goes_on') }} {{ ref('stops') }}",
}


def test_children_of_a_model_with_on_error_continue_run(project: Callable[[Mapping[str, str]], Path]) -> None:
    folder = project(ON_ERROR)
    expected = plain(folder, "build")
    assert expected["model.p.below_goes_on"] == "success"
    assert expected["model.p.below_stops"] == "skipped"
    assert by_id(drive(Engine(Shared()), spec_for(folder, "build"))) == expected


def test_graph_contains_compiled_code_as_in_dbt(
    project: Callable[[Mapping[str, str]], Path], duckdb_file: Path
) -> None:
    folder = project({"models/m.sql": "select 1 as id", "dbt_project.yml": PROJECT[:-1] + """,
        on-run-end: ["create or replace table seen as select '{{ graph.nodes['model.p.m'].compiled_code }}' as code"]}"""})  # fmt: skip
    plain(folder, "run")
    expected = rows(duckdb_file, "select * from seen")
    shared = Shared()
    drive([Engine(shared), Engine(shared)], spec_for(folder, "run"))
    close_warehouse()
    assert rows(duckdb_file, "select * from seen") == expected


def test_hint_is_shown_once_a_week_across_processes(
    project: Callable[[Mapping[str, str]], Path], tmp_path: Path
) -> None:
    folder = project({f"models/m{number}.sql": "select 1 as id" for number in range(101)})
    home = tmp_path / "home"
    home.mkdir()
    engine, args = Engine(Shared()), ("build", "--empty")

    def hints() -> int:
        spec, lines = spec_for(folder, *args, env={"HOME": str(home)}), []
        facts = engine.plan(spec, lines.append).facts
        engine.start(spec, facts, lines.append)
        engine.release()
        return sum("[HINT]" in event.text for event in lines)

    assert [hints(), hints()] == [1, 0]
    timestamps = home / ".dbt" / "hint_ts.json"
    # as if shown long ago
    timestamps.write_text(json.dumps(dict.fromkeys(json.loads(timestamps.read_text()), 0)))
    assert hints() == 1


def test_hint_at_a_slow_parse_is_shown_by_the_process_that_parses(
    project: Callable[[Mapping[str, str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt.parser.manifest.LONG_PARSING_THRESHOLD_SECONDS", 0)
    folder, shared = project({"models/m.sql": "select 1 as id"}), Shared()

    def hints(home: str) -> int:
        ran = drive(Engine(shared), spec_for(folder, "run", env={"HOME": str(tmp_path / home)}))
        return sum("[HINT] Your parse is taking a long time" in line for line in ran.lines)

    assert [hints("one"), hints("two")] == [1, 0]  # the second process reuses the parse


# -- `graph` shows what was compiled ---------------------------------------------------------------

SEE = """\
{% macro see(name) %}{% if execute %}
  {% for node in graph.nodes.values() | sort(attribute='unique_id') if node.unique_id.split('.')[2] in var('seen') %}
    {% do log('SEEN by ' ~ name ~ ': ' ~ tojson(node, sort_keys=true), info=true) %}
  {% endfor %}
{% endif %}{% endmacro %}
"""
LOOKS = {
    "macros/see.sql": SEE,
    "seeds/s.csv": "id\n1\n",
    "models/a_parent.sql": "{{ config(materialized='table', meta={'deep': {'of': ['parent']}}) }} select * from {{ ref('s') }}",
    "models/b_inlined.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('a_parent') }}",
    "models/c_child.sql": "select *, 'child' as kind from {{ ref('b_inlined') }}",
    "models/c_fails.sql": "{{ config(on_error='continue') }} select no_such_column from {{ ref('a_parent') }}",
    "models/d_looks.sql": "{{ see('d_looks') }} select * from {{ ref('c_child') }} -- {{ ref('c_fails') }}",
    "snapshots/e_kept.sql": (
        "{% snapshot e_kept %}{{ config(strategy='check', unique_key='id', check_cols=['kind']) }} {{ see('e_kept') }}"
        "select * from {{ ref('d_looks') }}{% endsnapshot %}"
    ),
    "tests/f_holds.sql": "{{ see('f_holds') }} select * from {{ ref('e_kept') }} where id is null",
    "dbt_project.yml": PROJECT[:-1] + """,
        on-run-start: ["select 1 as begins -- {{ invocation_id | length }}"], on-run-end: ["{{ see('end') }}"],
        vars: {seen: [s, a_parent, b_inlined, c_child, c_fails, d_looks, e_kept, f_holds, p-on-run-start-0]}}""",
}  # fmt: skip


def seen(lines: Iterable[str]) -> dict[tuple[str, str], Any]:
    """What was logged of each node, by who looked and unique id; without times."""
    found = {}
    for line in lines:
        _, is_seen, rest = line.partition("SEEN by ")
        if is_seen:
            name, _, shown = rest.partition(": ")
            node = {**json.loads(shown), "created_at": 0.0}
            found[name, node["unique_id"]] = node
    return found


@pytest.mark.parametrize("engines", [2, 3])
def test_nodes_see_what_other_processes_compiled(
    engines: int, project: Callable[[Mapping[str, str]], Path]
) -> None:
    folder = project(LOOKS)
    dbt = str(Path(sys.executable).with_name("dbt"))
    built, retried = (
        subprocess.run(
            [dbt, command], cwd=folder, capture_output=True, text=True, check=False
        ).stdout.splitlines()
        for command in ("build", "retry")
    )
    expected = seen(built)
    assert len(expected) == 4 * 9, "\n".join(built)
    compiled = {key for key, node in expected.items() if node.get("compiled")}
    assert {
        ("d_looks", f"model.p.{name}") for name in ("a_parent", "b_inlined", "c_child", "c_fails")
    } <= compiled
    shared = Shared()
    processes = [Engine(shared) for _ in range(engines)]
    ran = drive(processes, spec_for(folder, "build"))
    assert seen(ran.lines) == expected
    again = drive(processes, spec_for(folder, "retry"), previous=ran.finished.run_results)
    assert seen(again.lines) == seen(retried) != {}
