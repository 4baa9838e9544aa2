"""One DbtRunner in many threads: each caller gets the result of its own run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import runner
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.results import DbtResult

THREADS = 8


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


def test_eight_threads_get_the_results_of_their_own_vars(
    pool: WorkerPool, project: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    years = range(2025, 2025 + THREADS)
    lines: dict[int, list[str]] = {year: [] for year in years}
    # the same runner for all: a var names the file
    dbt = runner(redis_server, project)

    def build(year: int) -> DbtResult:
        return dbt.execute_command(
            ["run", "--select", "int_model_a"], simulation_year=year,
            dbt_vars={"cola_rate": year / 1000, "file": str(tmp_path / f"{year}.duckdb")},
            on_line=lines[year].append,
        )  # fmt: skip

    with ThreadPoolExecutor(THREADS) as threads:
        results = dict(zip(years, threads.map(build, years), strict=True))
    assert len({result.run_id for result in results.values()}) == THREADS
    for year, result in results.items():
        assert result.success, result.stdout
        assert lines[year] == result.stdout.splitlines()
        assert [node.name for node in result.nodes] == ["int_model_a"]
        with duckdb.connect(str(tmp_path / f"{year}.duckdb")) as connection:
            rows = connection.sql("select simulation_year, cola_rate::double from int_model_a").fetchall()
        assert rows == [(year, year / 1000)]
    # two processes worked on different files at the same time
    assert len({node.worker for result in results.values() for node in result.nodes}) == 2


def test_runs_of_threads_on_one_duckdb_file_take_turns(
    pool: WorkerPool, project: Path, redis_server: RedisServer, duckdb_file: Path
) -> None:
    """One process at a time has a DuckDB file open. No run fails for that, and runs are not mixed."""
    dbt = runner(redis_server, project)

    def build(_: int) -> DbtResult:
        return dbt.execute_command(["build", "--select", "+int_raised"], stream_output=False)

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(build, range(THREADS)))
    assert all(result.success for result in results), [result.stdout for result in results]
    assert all(
        node.attempts[0].number == len(node.attempts) == 1 for result in results for node in result.nodes
    )
    spans = sorted(
        (min(node.started_at for node in result.nodes), max(node.finished_at for node in result.nodes))
        for result in results
    )
    assert all(first[1] <= second[0] for first, second in pairwise(spans)), spans
