"""Broken models: errors and fixes, skipped nodes, and dbt's exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import DbtCompilationError, DbtDataQualityError, DbtExecutionError
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import node, runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.errors import exception_of
from workers.contract.results import DbtResult


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def result(pool: WorkerPool, project: Path, redis_server: RedisServer) -> DbtResult:
    """Result of one build of all broken models and their parents."""
    return runner(redis_server, project).execute_command(
        ["build", "--select", "+broken"], stream_output=False
    )


def test_exit_code_and_summary_equal_dbts(result: DbtResult) -> None:
    assert (result.success, result.return_code) == (False, 1)
    assert "Done. PASS=3 WARN=0 ERROR=3 SKIP=3 NO-OP=0 TOTAL=9" in result.stdout
    assert result.run_results is not None
    assert len(result.run_results["results"]) == len(result.nodes)


def test_missing_column_suggests_a_similar_name(result: DbtResult) -> None:
    broken = node(result, "broken_column")
    assert broken.status == "error"
    error = broken.error
    assert error is not None
    assert (error.code, error.category) == ("missing_column", "database")
    assert isinstance(exception_of(error), DbtExecutionError)
    assert error.file == "models/broken/broken_column.sql"
    assert '"person"' in error.suggested_fix
    assert error.sql_excerpt is not None
    assert "select persn from" in error.sql_excerpt
    assert not error.retryable


def test_compilation_error_names_its_file(result: DbtResult) -> None:
    error = node(result, "broken_macro").error
    assert error is not None
    assert error.category == "compilation"
    assert isinstance(exception_of(error), DbtCompilationError)
    assert "the rates are not there" in error.detail
    assert error.file == "models/broken/broken_macro.sql"
    assert "broken_macro" in error.suggested_fix


def test_failed_test_counts_its_failures(result: DbtResult) -> None:
    [failed] = [each for each in result.nodes if each.status == "fail"]
    assert failed.resource_type == "test"
    assert failed.failures == 1
    error = failed.error
    assert error is not None
    assert (error.category, error.failures) == ("data_quality", 1)
    assert isinstance(exception_of(error), DbtDataQualityError)
    assert "dbt-relay show --select" in error.suggested_fix


def test_dependents_are_skipped_and_other_nodes_run(result: DbtResult) -> None:
    statuses = {each.name: each.status for each in result.nodes}
    for skipped in ("after_broken_column", "after_after", "after_failing"):
        assert statuses[skipped] == "skipped"
        assert node(result, skipped).attempts == ()
    for good in ("salaries", "int_model_b", "failing"):
        assert statuses[good] == "success"


def test_result_has_the_first_error(result: DbtResult) -> None:
    assert result.error is not None
    assert result.error == next(each.error for each in result.nodes if each.error is not None)
    assert result.stderr == result.error.message


def test_project_that_does_not_parse_executes_no_node(
    pool: WorkerPool, copy_project_: Path, redis_server: RedisServer
) -> None:
    (copy_project_ / "models" / "int" / "int_model_a.sql").write_text("select {{ ref('int_model_c') }}")
    result = runner(redis_server, copy_project_).execute_command(["run"], stream_output=False)
    assert (result.return_code, result.nodes) == (2, ())
    assert result.error is not None
    assert isinstance(exception_of(result.error), DbtCompilationError)
    assert "int_model_c" in result.error.message
    assert "int_model_a" in result.error.suggested_fix


@pytest.fixture
def copy_project_(tmp_path: Path) -> Path:
    """A copy that the test may edit."""
    return copy_project("trial", tmp_path / "trial")


def test_corrected_model_runs(pool: WorkerPool, copy_project_: Path, redis_server: RedisServer) -> None:
    """A warm worker notices that the file changed."""
    dbt = runner(redis_server, copy_project_)
    command = ["build", "--select", "+broken_column"]
    assert not dbt.execute_command(command, stream_output=False).success
    (copy_project_ / "models" / "broken" / "broken_column.sql").write_text(
        "select person from {{ ref('int_model_b') }}"
    )
    assert dbt.execute_command(command, stream_output=False).success
