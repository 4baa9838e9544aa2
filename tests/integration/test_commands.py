"""Every dbt command through DbtRunner: dbt's exit code, its lines, its artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from producer import DbtRunner, DbtUsageError
from producer.client import RelayClient
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import node, runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.keys import ARTIFACTS
from workers.contract.results import DbtResult

Run = Callable[..., DbtResult]


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2, coverage=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def dbt(pool: WorkerPool, project: Path, redis_server: RedisServer) -> DbtRunner:
    """On a warehouse (trial.duckdb in the project) where everything that is not broken was built."""
    dbt = runner(redis_server, project)
    built = dbt.execute_command(["build", "--select", "+int"], stream_output=False)
    assert built.success, built.stdout
    return dbt


@pytest.fixture
def run(dbt: DbtRunner) -> Run:
    return lambda *args, **options: dbt.execute_command(list(args), stream_output=False, **options)


def artifact(project: Path, name: str) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((project / "target" / name).read_text())
    return plain


def test_artifacts_note_what_the_caller_set_for_them(
    redis_server: RedisServer, dbt: DbtRunner, project: Path
) -> None:
    caller = runner(redis_server, project, env={"DBT_ENV_CUSTOM_ENV_TEAM": "north"})
    assert caller.execute_command(["run", "--select", "int_model_a"], stream_output=False).success
    for name in ("manifest.json", "run_results.json"):
        assert artifact(project, name)["metadata"]["env"] == {"TEAM": "north"}


def test_the_file_is_free_when_a_command_returns(run: Run, project: Path) -> None:
    for year in (2025, 2026, 2027):
        assert run("run", "--select", "int_model_a", simulation_year=year).success
        with duckdb.connect(str(project / "trial.duckdb")) as connection:
            assert connection.sql("select simulation_year from int_model_a").fetchall() == [(year,)]
        assert not (project / "trial.duckdb.wal").exists()


def test_run_results_are_left_where_dbt_leaves_them(run: Run, project: Path) -> None:
    result = run("run", "--select", "int_model_a", "int_model_b")
    left = artifact(project, "run_results.json")
    assert left == result.run_results
    assert [each["unique_id"] for each in left["results"]] == [each.unique_id for each in result.nodes]
    assert left["args"]["which"] == "run"
    assert result.command[:2] == ["dbt", "run"]


def test_seed_with_show_prints_the_seeds(run: Run) -> None:
    result = run("seed", "--show")
    assert result.success, result.stdout
    assert "salary" in result.stdout
    assert "70000" in result.stdout.replace(",", "").replace(" ", "")
    assert [each.name for each in result.nodes] == ["salaries"]


def test_deps(run: Run) -> None:
    result = run("deps")
    assert (result.return_code, result.error) == (0, None)
    assert "No packages were found" in result.stdout


def test_debug(run: Run) -> None:
    result = run("debug")
    assert result.return_code == 0
    assert "Connection test: " in result.stdout
    assert "All checks passed!" in result.stdout


def test_debug_tells_what_is_wrong(pool: WorkerPool, redis_server: RedisServer, tmp_path: Path) -> None:
    project = copy_project("trial", tmp_path / "trial")
    env = {"RELAY_TEST_DUCKDB": str(tmp_path / "no" / "such" / "folder" / "x.duckdb")}
    result = runner(redis_server, project, env=env).execute_command(["debug"], stream_output=False)
    assert result.return_code == 1
    assert "1 check failed" in result.stdout
    assert result.error is not None
    assert "no/such/folder" in result.error.detail


def test_parse(run: Run, project: Path) -> None:
    (project / "target" / "manifest.json").unlink(missing_ok=True)
    assert run("parse").return_code == 0
    assert "model.trial.int_model_a" in artifact(project, "manifest.json")["nodes"]


def test_compile(run: Run, project: Path) -> None:
    result = run("compile", "--select", "int_raised")
    assert result.return_code == 0
    assert "Compiled node 'int_raised' is:" in result.stdout
    compiled = project / "target" / "compiled" / "trial" / "models" / "int" / "int_raised.sql"
    assert '"main"."int_model_b"' in compiled.read_text()


def test_docs_generate(run: Run, project: Path) -> None:
    result = run("docs", "generate", "--select", "int")
    assert result.return_code == 0, result.stdout
    assert "model.trial.int_model_a" in artifact(project, "catalog.json")["nodes"]
    assert (project / "target" / "index.html").exists()
    assert result.run_results is not None  # it compiled at first
    assert {each["unique_id"] for each in result.run_results["results"]} >= {"model.trial.int_model_a"}
    assert result.run_results["args"]["which"] == "generate"
    assert artifact(project, "run_results.json") == result.run_results


def test_artifacts_of_a_command_come_back_from_where_its_project_file_puts_them(
    redis_server: RedisServer, pool: WorkerPool, tmp_path: Path
) -> None:
    """As they would from another machine: `dbt_project.yml` of this one names another folder."""
    project = copy_project("trial", tmp_path / "trial")
    config = project / "dbt_project.yml"
    config.write_text(f"{config.read_text()}\ntarget-path: elsewhere\n")
    result = runner(redis_server, project).execute_command(
        ["docs", "generate", "--select", "int"], stream_output=False
    )
    assert result.return_code == 0, result.stdout
    relay = RelayClient(redis_server.broker_url)
    for name in ARTIFACTS:
        if name != "sources.json":
            assert relay.artifact(result.run_id, name) is not None, name


def test_source_freshness(run: Run, project: Path) -> None:
    result = run("source", "freshness")
    assert result.return_code == 1
    assert "ERROR STALE freshness of trial_source.salaries_stale" in result.stdout
    assert "WARN freshness of trial_source.salaries" in result.stdout
    assert result.error is not None
    assert result.error.category == "source_freshness"
    statuses = {each["unique_id"]: each["status"] for each in artifact(project, "sources.json")["results"]}
    assert statuses["source.trial.trial_source.salaries_stale"] == "error"


def test_run_operation(run: Run) -> None:
    result = run("run-operation", "say", "--args", "{words: hello, times: 2}")
    assert result.return_code == 0
    assert "  hello 0" in result.stdout
    assert "  hello 1" in result.stdout


def test_run_operation_that_fails(run: Run) -> None:
    result = run("run-operation", "fail", "--args", "{words: the moon is full}")
    assert result.return_code == 1
    assert "the moon is full" in result.stdout
    assert result.error is not None
    assert "the moon is full" in result.error.message + result.error.detail
    assert result.error.category == "compilation"


def test_run_operation_without_such_a_macro(run: Run) -> None:
    result = run("run-operation", "sayy")
    assert result.return_code == 2
    assert result.error is not None
    assert "sayy" in result.error.message


def test_ls(run: Run) -> None:
    result = run("ls", "--select", "int", "--output", "name")
    assert result.return_code == 0
    assert result.stdout.splitlines()[-3:] == ["int_model_a", "int_model_b", "int_raised"]


def test_show(run: Run) -> None:
    result = run("show", "--select", "int_model_b", "--limit", "2")
    assert result.return_code == 0
    assert "| person | salary |" in result.stdout
    assert result.stdout.count("|      ") >= 2


def test_clone(run: Run, project: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "manifest.json").write_bytes((project / "target" / "manifest.json").read_bytes())
    result = run("clone", "--select", "int_model_a", "--state", str(state))
    assert result.return_code == 0, result.stdout
    assert [each.name for each in result.nodes] == ["int_model_a"]
    assert "Done. PASS=1" in result.stdout


def test_retry_runs_what_failed(run: Run, project: Path) -> None:
    broken = project / "models" / "broken" / "broken_column.sql"
    text = broken.read_text()
    first = run("run", "--select", "int_model_a", "broken_column+")
    assert first.return_code == 1
    again = run("retry")
    assert again.return_code == 1
    assert "int_model_a" not in {each.name for each in again.nodes}
    try:
        broken.write_text("select person from {{ ref('int_model_b') }}")
        mended = run("retry")
    finally:
        broken.write_text(text)
    assert mended.return_code == 0, mended.stdout
    assert {each["unique_id"] for each in artifact(project, "run_results.json")["results"]} == {
        "model.trial.broken_column", "model.trial.after_broken_column", "model.trial.after_after",
    }  # fmt: skip


def test_clean(run: Run, project: Path) -> None:
    (project / "target" / "old").mkdir(parents=True)
    result = run("clean")
    assert result.return_code == 0
    assert not (project / "target" / "old").exists()


def test_a_selector_that_matches_nothing_is_a_warning(run: Run) -> None:
    result = run("run", "--select", "no_such_model")
    assert (result.success, result.return_code, result.nodes) == (True, 0, ())
    assert "The selection criterion 'no_such_model' does not match any enabled nodes" in result.stdout
    assert "Nothing to do." in result.stdout


def test_a_model_that_is_not_there_is_refused_before_any_node_runs(
    dbt: DbtRunner, redis_server: RedisServer
) -> None:
    relay = RelayClient(redis_server.broker_url)
    with pytest.raises(DbtUsageError, match=r"no model named 'int_modle_a'.*int_model_a"):
        dbt.run_model("int_modle_a", stream_output=False)
    with pytest.raises(DbtUsageError, match=r"no model named 'int_modle_b'.*int_model_b"):
        dbt.run_models(["int_model_a", "int_modle_b"], parallel=True, stream_output=False)
    with pytest.raises(DbtUsageError, match="int_modle_b"):
        dbt.run_models(["int_model_a", "int_modle_b"], stream_output=False)
    assert [run.done for run in relay.runs()[:3]] == [0, 0, 0]


def test_models_of_a_set_run_as_one_and_give_a_result_each(dbt: DbtRunner) -> None:
    first, second = dbt.run_models(["int_model_a", "int_model_b"], parallel=True, stream_output=False)
    assert first.run_id == second.run_id
    for result, name in ((first, "int_model_a"), (second, "int_model_b")):
        assert result.success
        assert [each.name for each in result.nodes] == [name]
        assert f"main.{name} " in result.stdout
        assert result.command == ["dbt", "run", "--select", name]


def test_models_one_after_another(dbt: DbtRunner) -> None:
    first, second = dbt.run_models(["int_model_a", "int_model_b"], stream_output=False)
    assert first.run_id != second.run_id
    assert node(first, "int_model_a").finished_at < node(second, "int_model_b").started_at


def test_a_broken_model_of_a_set_fails_alone(dbt: DbtRunner) -> None:
    good, bad = dbt.run_models(["int_model_a", "broken_column"], parallel=True, stream_output=False)
    assert (good.success, good.return_code, good.error) == (True, 0, None)
    assert (bad.success, bad.return_code) == (False, 1)
    assert bad.error is not None
    assert bad.error.code == "missing_column"


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (["rnu"], {}, "No such command 'rnu'"),
        (["run", "--selct", "x"], {}, "No such option"),
        (["run", "--vars", "{a: "], {}, "vars"),
        (["run", "--threads", "many"], {}, "threads"),
        (["run"], {"simulation_year": "next"}, "simulation_year"),
        (["run", "--vars", "simulation_year: 2026"], {"simulation_year": 2025}, "simulation_year"),
        (["run", "--project-dir", "nowhere"], {}, "nowhere"),
        ([], {}, "command"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_queued(
    run: Run, redis_server: RedisServer, args: list[str], options: dict[str, Any], message: str
) -> None:
    relay = RelayClient(redis_server.broker_url)
    before = len(relay.runs())
    with pytest.raises(DbtUsageError, match=message):
        run(*args, **options)
    assert len(relay.runs()) == before


@pytest.mark.parametrize(
    ("args", "first"),
    [
        (["--version"], "Core:"),
        (["--help"], "Usage: dbt "),
        (["run", "--help"], "Usage: dbt run "),
        (["ls", "-h"], "Usage: dbt ls "),
    ],
)
def test_help_and_version_are_those_of_the_workers_dbt(run: Run, args: list[str], first: str) -> None:
    result = run(*args)
    assert (result.return_code, result.error, result.nodes) == (0, None, ())
    assert result.stdout.startswith(first)
    assert [attempt.number for attempt in result.attempts] == [1]


@pytest.mark.parametrize(
    "args",
    [
        ["compile", "--select", "int_model_a", "--inline", "select 1"],
        ["run", "--warn-error", "--warn-error-options", "{error: all}"],
    ],
)
def test_options_that_exclude_each_other_are_a_usage_error(run: Run, args: list[str]) -> None:
    result = run(*args)
    assert result.return_code == 2
    assert result.error is not None
    assert (result.error.category, result.error.code) == ("usage", "usage_error")
    assert "not allowed with argument" in result.error.message
    assert [attempt.number for attempt in result.attempts] == [1]
