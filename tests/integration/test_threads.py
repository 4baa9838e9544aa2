"""One DbtRunner, many threads: each caller gets its own right result."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Ear, runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.results import DbtResult

THREADS = 8


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


def test_eight_threads_with_their_own_vars_get_their_own_results(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    dbt = runner(redis_server, project)
    heard: dict[int, list[str]] = {year: [] for year in range(2025, 2025 + THREADS)}

    def show(year: int) -> DbtResult:
        return dbt.execute_command(
            ["show", "--inline", "select {{ var('simulation_year') }} as year, {{ var('cola_rate') }} as rate",
             "--output", "json"],
            simulation_year=year, dbt_vars={"cola_rate": year / 1000}, on_line=heard[year].append,
        )  # fmt: skip

    with ThreadPoolExecutor(THREADS) as threads:
        results = dict(zip(heard, threads.map(show, heard), strict=True))
    assert len({result.run_id for result in results.values()}) == THREADS
    for year, result in results.items():
        assert result.success, result.stdout
        assert heard[year] == result.stdout.splitlines()
        shown = json.loads(result.stdout[result.stdout.index("{\n") : result.stdout.rindex("}") + 1])
        assert shown["show"] == [{"year": year, "rate": year / 1000}]


def test_threads_on_files_of_their_own_build_their_own_tables(
    pool: WorkerPool, project: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    ear = Ear()

    def build(year: int) -> DbtResult:
        env = {"RELAY_TEST_DUCKDB": str(tmp_path / f"{year}.duckdb")}
        return runner(redis_server, project, env=env, on_event=ear).execute_command(
            ["build", "--select", "+int_raised"], simulation_year=year, stream_output=False
        )

    years = range(2025, 2029)
    with ThreadPoolExecutor(len(years)) as threads:
        results = list(threads.map(build, years))
    assert all(result.success for result in results), [result.stdout for result in results]
    for year in years:
        with duckdb.connect(str(tmp_path / f"{year}.duckdb")) as connection:
            assert connection.sql("select distinct simulation_year from int_raised").fetchall() == [(year,)]
    # two processes worked on two files at the same time
    assert len({node.worker for result in results for node in result.nodes}) == 2


def test_threads_on_one_file_take_turns(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    """One process holds a DuckDB file at a time; nobody fails for that, and no runs are mixed."""
    dbt = runner(redis_server, project)

    def build(year: int) -> DbtResult:
        return dbt.execute_command(
            ["build", "--select", "+int_raised"], simulation_year=year, stream_output=False
        )

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(build, range(2025, 2025 + THREADS)))
    assert all(result.success for result in results), [result.stdout for result in results]
    assert all(node.attempts[0].number == len(node.attempts) == 1 for result in results for node in result.nodes)
    spans = sorted(
        (min(node.started_at for node in result.nodes), max(node.finished_at for node in result.nodes))
        for result in results
    )
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False)), spans
