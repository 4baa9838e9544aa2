"""Runs on the engine alone: on one engine, and on several engines in turn."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from dbt.clients import registry
from dbt.deps import base as deps
from dbt.utils import artifact_upload
from dbt.version import installed
from dbt_common.clients import jinja
from sqlparse.engine import grouping

from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.projects import copy_project
from workers.contract.events import DEBUG, LINE
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse

ENGINE = Engine(Shared(), worker="here:1")
"""Warm for all tests: each copies its project to the same path."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_warehouse()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def duckdb_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = home / "warehouse.duckdb"
    path.unlink(missing_ok=True)
    monkeypatch.setenv("RELAY_TEST_DUCKDB", str(path))
    return path


def fresh(home: Path, name: str) -> Path:
    shutil.rmtree(home / name, ignore_errors=True)
    return copy_project(name, home / name)


@pytest.fixture
def small(home: Path, duckdb_file: Path) -> Path:
    return fresh(home, "small")


@pytest.fixture
def broken(home: Path, duckdb_file: Path) -> Path:
    return fresh(home, "broken")


def failing(project: Path, command: str, *what: str) -> Ran:
    return drive(ENGINE, spec_for(project, *command.split(), "--vars", json.dumps({"broken": what})))


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    close_warehouse()
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_build_on_one_engine(small: Path, duckdb_file: Path) -> None:
    ran = drive(ENGINE, spec_for(small, "build"))
    assert ran.finished.return_code == 0, ran.lines
    assert set(ran.statuses.values()) == {"success", "pass"}
    assert all(outcome.result.worker == "here:1" for outcome in ran.outcomes.values())
    assert rows(duckdb_file, "select count(distinct invocation_id) from run_log") == [(1,)]
    assert any("Done. PASS=" in line for line in ran.lines)
    assert (small / "target" / "run_results.json").exists()
    assert json.loads((small / "target" / "manifest.json").read_text())["metadata"]["project_name"] == "small"


def test_several_engines_have_the_results_of_one(small: Path, tmp_path: Path) -> None:
    shared = Shared()
    alone = drive(ENGINE, spec_for(small, "build"))
    close_warehouse()
    os.environ["RELAY_TEST_DUCKDB"] = str(tmp_path / "second.duckdb")
    second = copy_project("small", tmp_path / "second")
    engines = [Engine(shared, worker=f"w:{number}") for number in range(3)]
    together = drive(engines, spec_for(second, "build"))
    assert together.statuses == alone.statuses
    assert {outcome.result.worker for outcome in together.outcomes.values()} == {"w:0", "w:1", "w:2"}
    logged = [line for line in together.lines if "Registered adapter" in line or "Found " in line]
    assert len(logged) == 2, "only the plan logs these lines"


def test_empty_selection_is_a_success(small: Path) -> None:
    ran = drive(ENGINE, spec_for(small, "run", "--select", "nothing_like_it"))
    assert ran.finished.return_code == 0
    assert ran.finished.run_results is not None
    assert ran.finished.run_results["results"] == []
    assert any("Nothing to do" in line for line in ran.lines)


def test_unknown_required_model_suggests_similar_names(small: Path) -> None:
    spec = spec_for(small, "run", required_models=("customer_total",))
    ran = drive(ENGINE, spec)
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert "customer_totals" in ran.finished.error.message


def test_missing_working_directory_is_an_error(small: Path) -> None:
    spec = spec_for(small, "run")
    import msgspec

    ran = drive(ENGINE, msgspec.structs.replace(spec, cwd="/no/such/folder"))
    assert ran.finished.return_code == 2
    assert any("/no/such/folder" in line for line in ran.lines)


def test_refused_arguments_are_a_usage_error(small: Path) -> None:
    ran = drive(ENGINE, spec_for(small, "run", "--no-such-flag"))
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert ran.finished.error.code == "unknown_option"
    assert "no-such-flag" in ran.finished.error.message
    assert ran.lines == []  # click prints it on stderr


@pytest.mark.parametrize(
    ("args", "selected"),
    [
        (("--select", "models/orders*"), {"orders_by_year"}),
        (
            ("--select", "path:models", "--exclude", "models/customer_totals.sql"),
            {"orders_by_year", "stg_orders"},
        ),
        (("--exclude", "models/customer_totals.sql", "models/stg_orders.sql"), {"orders_by_year"}),
    ],
)
def test_path_selectors_start_at_the_project(
    small: Path, tmp_path: Path, args: tuple[str, ...], selected: set[str]
) -> None:
    spec = spec_for(small, "run", "--project-dir", str(small), "--profiles-dir", str(small), *args)
    plan = ENGINE.plan(msgspec.structs.replace(spec, cwd=str(tmp_path)), lambda _: None)
    assert {node.name for node in plan.nodes} == selected


@pytest.mark.parametrize("args", [("run", "--help"), ("run", "--version"), ("run", "--defer", "-h")])
def test_help_and_version_are_executed_as_whole_commands(small: Path, args: tuple[str, ...]) -> None:
    events = []
    plan = ENGINE.plan(spec_for(small, *args), events.append)
    assert plan.whole
    assert not events  # the whole command prints it


@pytest.mark.parametrize("option", ["--record-timing-info=timing.prof", "--upload-to-artifacts-ingest-api"])
def test_options_around_the_command_keep_it_in_one_process(small: Path, option: str) -> None:
    assert ENGINE.plan(spec_for(small, "run", option), lambda _: None).whole


@pytest.mark.skipif(installed.minor == "10", reason="dbt-core 1.10 has no --sqlparse")
def test_sqlparse_limits_apply_per_run(small: Path) -> None:
    def limit(*args: str) -> object:
        plan = ENGINE.plan(spec_for(small, "run", *args), lambda _: None)
        assert plan.nodes
        return grouping.MAX_GROUPING_DEPTH

    own = grouping.MAX_GROUPING_DEPTH
    try:
        with_limit = spec_for(small, "run", "--sqlparse", "{MAX_GROUPING_DEPTH: 7}")
        facts = ENGINE.plan(with_limit, lambda _: None).facts
        assert grouping.MAX_GROUPING_DEPTH == 7
        assert limit() is None  # dbt's default: no limit
        ENGINE.start(with_limit, facts, lambda _: None)
        assert grouping.MAX_GROUPING_DEPTH == 7
    finally:
        grouping.MAX_GROUPING_DEPTH = own


def test_module_state_of_an_earlier_command_is_reset(small: Path) -> None:
    registry.index_cached.cache[()] = ["a package of yesterday"]
    jinja.MACRO_DEBUGGING = "write"
    deps.DOWNLOADS_PATH = str(small / "downloads")
    artifact_upload.add_artifact_produced("another/target/manifest.json")
    ENGINE.plan(spec_for(small, "run"), lambda _: None)
    assert not registry.index_cached.cache
    assert not jinja.MACRO_DEBUGGING
    assert deps.DOWNLOADS_PATH is None
    assert "another/target/manifest.json" not in artifact_upload.PRODUCED_ARTIFACTS_PATHS


def test_process_state_is_restored_after_a_step(small: Path) -> None:
    before = dict(os.environ), os.getcwd(), list(sys.argv), threading.current_thread().name, sys.stdout
    drive(ENGINE, spec_for(small, "build", env={"ONLY_IN_THE_RUN": "1"}))
    drive(ENGINE, spec_for(small, "run", "--no-such-flag"))
    after = dict(os.environ), os.getcwd(), list(sys.argv), threading.current_thread().name, sys.stdout
    assert after == before


def test_command_has_its_callers_environment_and_arguments(small: Path) -> None:
    (small / "macros").mkdir(exist_ok=True)
    (small / "macros" / "tell.sql").write_text(
        "{% macro tell() %}{{ print(env_var('WHERE') ~ ' ' ~ invocation_id ~ ' ' ~ run_started_at.isoformat()) }}"
        "{{ print(invocation_args_dict.invocation_command) }}{% endmacro %}"
    )
    events = []
    spec = spec_for(small, "run-operation", "tell", env={"WHERE": "here"})
    finished = ENGINE.command(spec, "run-operation", events.append)
    lines = [event.text for event in events if event.kind == LINE]
    assert finished.return_code == 0, lines
    assert any(line.startswith("here ") for line in lines)
    assert "dbt run-operation tell" in lines


def test_artifacts_contain_the_custom_environment_of_their_run(small: Path) -> None:
    for team in ("north", "south"):
        drive(ENGINE, spec_for(small, "run", "--select", "stg_orders", env={"DBT_ENV_CUSTOM_ENV_TEAM": team}))
        for name in ("manifest", "run_results"):
            written = json.loads((small / "target" / f"{name}.json").read_text())
            assert written["metadata"]["env"] == {"TEAM": team}, name


def test_debug_events_are_not_lines(small: Path) -> None:
    drive(ENGINE, spec_for(small, "build"))
    plain = drive(ENGINE, spec_for(small, "build"))
    debugged = drive(ENGINE, spec_for(small, "build", debug=True))
    assert not [event for event in plain.events if event.kind == DEBUG]
    assert [event for event in debugged.events if event.kind == DEBUG]
    assert len(debugged.lines) == len(plain.lines)


@pytest.mark.parametrize("option", ["--quiet", "--log-level=none"])
def test_quiet_run_emits_no_lines(small: Path, option: str) -> None:
    assert drive(ENGINE, spec_for(small, option, "build")).lines == []


def test_json_log_format_emits_json_lines(small: Path) -> None:
    spec = spec_for(small, "--log-format", "json", "build")
    for line in drive(ENGINE, spec).lines:
        assert json.loads(line)["info"]["invocation_id"] == spec.invocation_id


def test_secrets_are_masked_in_lines(small: Path) -> None:
    (small / "models" / "leak.sql").write_text(
        "{{ log('the word is ' ~ var('word'), info=true) }} select 1 as one"
    )
    spec = spec_for(small, "run", "--vars", "{word: opensesame}", env={"DBT_ENV_SECRET_WORD": "opensesame"})
    ran = drive(ENGINE, spec)
    assert any("the word is *****" in line for line in ran.lines)
    assert not any("opensesame" in line for line in ran.lines)


# -- failures --------------------------------------------------------------------------------------


def test_failed_view_skips_its_descendants(broken: Path) -> None:
    ran = failing(broken, "build", "view")
    assert ran.finished.return_code == 1
    assert ran.statuses["staging"] == "error"
    assert ran.statuses["solid"] == ran.statuses["last"] == ran.statuses["tenfold_is_tenfold"] == "skipped"
    info = ran.outcomes["model.broken.staging"].result.error
    assert info is not None
    assert info.node == "model.broken.staging"


def test_failed_unit_test_skips_its_model(broken: Path) -> None:
    ran = failing(broken, "build", "unit_test")
    assert ran.statuses["tenfold_is_tenfold"] == "fail"
    assert ran.statuses["solid"] == ran.statuses["unique_solid_number"] == "skipped"


def test_error_of_an_ephemeral_model_is_named_in_its_child(broken: Path) -> None:
    ran = failing(broken, "build --exclude resource_type:unit_test", "ephemeral_compile")
    assert ran.finished.return_code == 1
    message = ran.outcomes["model.broken.reads_ephemeral"].result.message or ""
    assert "caused by compilation error in referenced ephemeral model" in message


def test_failed_batch_is_a_partial_success(broken: Path) -> None:
    ran = failing(broken, "build --select +after_batches", "batch")
    assert ran.statuses["batches"] == "partial success"
    entry = ran.outcomes["model.broken.batches"].result.result
    assert len(entry["batch_results"]["failed"]) == 1
    assert ran.statuses["after_batches"] == "skipped"


def test_fail_fast_stops_the_run(broken: Path) -> None:
    ran = failing(broken, "build --fail-fast", "seed")
    assert ran.finished.return_code == 1
    assert list(ran.outcomes) == ["seed.broken.numbers"]
    assert ran.statuses["last"] == "skipped"


def test_failed_start_hook_skips_all_nodes_with_that_flag(broken: Path) -> None:
    text = (broken / "dbt_project.yml").read_text()
    (broken / "dbt_project.yml").write_text(
        text.replace("skip_nodes_if_on_run_start_fails: false", "skip_nodes_if_on_run_start_fails: true")
    )
    ran = failing(broken, "run", "on_run_start")
    assert ran.finished.return_code == 1
    assert ran.outcomes == {}
    nodes = {entry["unique_id"]: entry["status"] for entry in ran.finished.run_results["results"]}  # type: ignore[index]
    assert {status for node, status in nodes.items() if not node.startswith("operation")} == {"skipped"}


def test_end_hook_that_cannot_be_compiled_ends_the_command(broken: Path) -> None:
    ran = failing(broken, "run", "on_run_end_compile")
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert "on_run_end was told to fail" in ran.finished.error.message


def test_parse_error_ends_the_command(broken: Path) -> None:
    (broken / "models" / "last.sql").write_text("{{ nothing_like_it( }}")
    ran = failing(broken, "build")
    assert ran.finished.return_code == 2
    assert any("Encountered an error" in line for line in ran.lines)


def test_second_attempt_refreshes_the_relation_cache(small: Path, duckdb_file: Path) -> None:
    assert drive(ENGINE, spec_for(small, "build")).finished.return_code == 0
    close_warehouse()
    with duckdb.connect(str(duckdb_file)) as connection:
        connection.execute("create view main.orders_by_year_backup as select 1 as one")
    ran = drive(ENGINE, spec_for(small, "run"), attempt=2)
    assert ran.finished.return_code == 0
    changes = [json.loads(change) for outcome in ran.outcomes.values() for change in outcome.cache]
    snapshots = [change for change in changes if change[1] == "snapshot"]
    assert snapshots
    assert "orders_by_year_backup" in json.dumps(snapshots[0])


# -- the warehouse ---------------------------------------------------------------------------------


def test_release_closes_the_duckdb_file(small: Path, duckdb_file: Path) -> None:
    drive(ENGINE, spec_for(small, "build"))
    ENGINE.release()
    with duckdb.connect(str(duckdb_file)) as connection:
        assert connection.execute("select count(*) from run_log").fetchone() is not None


def test_full_disk_fails_the_node_and_the_artifacts(small: Path) -> None:
    """Writes to /dev/full fail with ENOSPC, as on a full disk."""
    compiled = small / "target" / "compiled" / "small" / "models" / "orders_by_year.sql"
    compiled.parent.mkdir(parents=True)
    compiled.symlink_to("/dev/full")
    spec = spec_for(small, "build")
    ran = drive(ENGINE, spec)
    assert ran.statuses["orders_by_year"] == "error"
    error = ran.outcomes["model.small.orders_by_year"].result.error
    assert error is not None
    assert (error.code, error.category) == ("disk_full", "resource")
    assert str(small / "target") in error.suggested_fix
    compiled.unlink()
    artifact = small / "target" / f"run_results.json.{os.getpid()}.tmp"
    artifact.symlink_to("/dev/full")
    ran = drive(ENGINE, spec_for(small, "run"))
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert ran.finished.error.code == "disk_full"
    assert str(small / "target" / "run_results.json") in ran.finished.error.suggested_fix
    assert not artifact.is_symlink(), "the temporary file is removed"
    assert drive(ENGINE, spec_for(small, "run")).finished.return_code == 0


class ClosingEngine(Engine):
    """Closes the file before every node, as at the start of a session."""

    def node(self, *args: Any, **options: Any) -> Any:
        self.release()
        return super().node(*args, **options)


def test_python_model_opens_the_closed_duckdb_file(small: Path, duckdb_file: Path) -> None:
    (small / "models" / "by_hand.py").write_text(
        "def model(dbt, session):\n    return session.sql('select 7 as id')\n"
    )
    ran = drive(ClosingEngine(Shared(), worker="w"), spec_for(small, "run", "--select", "by_hand"))
    assert ran.statuses["by_hand"] == "success", ran.lines
    assert rows(duckdb_file, "select id from by_hand") == [(7,)]


def test_warehouse_is_named_by_its_file(small: Path, duckdb_file: Path) -> None:
    assert ENGINE.warehouse(spec_for(small, "compile"), "compile") == f"duckdb:{duckdb_file}"
    assert ENGINE.warehouse(spec_for(small, "ls"), "ls") is None
    assert ENGINE.warehouse(spec_for(small, "compile", "--target", "none"), "compile") is None
