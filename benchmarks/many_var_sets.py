"""Many var sets: runs with different ``--vars``, one after the other and all at once.

Each scenario has its own Postgres schema or DuckDB file. A private stack of two worker processes executes the scenarios
one after the other; another stack executes them all at once. The measure is the CPU of workers and Redis, which grows
when processes drop parsed projects and load them again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.measure import Options, Outcome, Table, at_most
from benchmarks.projects import environment
from benchmarks.simulated_project import write_project
from benchmarks.stacks import Stack, stack, succeeded
from producer.runner import DbtRunner
from tests.support.postgres_server import PostgresDatabase, PostgresServer

ONE, ALL = "one after the other", "all at once"
POSTGRES, DUCKDB = "Postgres", "DuckDB"

PROFILES = """{name}:
  target: "{{{{ env_var('BENCH_TARGET') }}}}"
  outputs:
    DuckDB:
      type: duckdb
      path: "{{{{ env_var('BENCH_FOLDER') }}}}/{{{{ var('scenario') }}}}.duckdb"
      schema: main
      threads: 4
    Postgres:
      type: postgres
      host: "{{{{ env_var('PGHOST') }}}}"
      port: "{{{{ env_var('PGPORT') | as_number }}}}"
      user: "{{{{ env_var('PGUSER') }}}}"
      password: "{{{{ env_var('BENCH_PG_ACCESS') }}}}"
      dbname: "{{{{ env_var('PGDATABASE') }}}}"
      schema: "{{{{ var('scenario') }}}}"
      threads: 4
"""
"""The var ``scenario`` names the schema or file."""


def small_project(folder: Path, models: int = 12) -> dict[str, object]:
    """Write a project of three chains of models that read the scenario. Returns its other vars."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: small\nversion: '1.0'\nconfig-version: 2\nprofile: small\n"
    )
    (folder / "profiles.yml").write_text(PROFILES.format(name="small"))
    for number in range(models):
        above = f"from {{{{ ref('m{number - 3:02}') }}}}" if number > 2 else ""
        sql = f"select '{{{{ var(\"scenario\") }}}}' as scenario, {number} as x {above}"
        (folder / "models" / f"m{number:02}.sql").write_text(sql)
    return {}


def large_project(folder: Path, models: int, tests: int) -> dict[str, object]:
    """Write the project of `changed-vars` for both warehouses. Returns its other vars."""
    values = write_project(folder, models, tests)
    (folder / "profiles.yml").write_text(PROFILES.format(name="simulated"))
    return values


@contextlib.contextmanager
def counted(workers: Stack) -> Iterator[dict[str, float]]:
    """Measure CPU seconds (user and system) of workers and Redis, and wall seconds, of the block."""
    used: dict[str, float] = {}
    before, began = _cpu(workers), time.perf_counter()
    yield used
    used |= {"wall": time.perf_counter() - began, "cpu": _cpu(workers) - before}


def _cpu(workers: Stack) -> float:
    family = psutil.Process(workers.pool.pid)
    with workers.server.client() as client:
        info = client.info("cpu")
    redis_cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
    times = [each.cpu_times() for each in (family, *family.children(recursive=True))]
    return redis_cpu + sum(each.user + each.system for each in times)


def environment_of(database: PostgresDatabase, target: str, folder: Path) -> dict[str, str]:
    """Variables that the profile reads. dbt-relay would not send a variable named like PASSWORD to the workers."""
    more = {"BENCH_TARGET": target, "BENCH_FOLDER": str(folder), "BENCH_PG_ACCESS": database.password}
    return {**environment(), **database.env, **more}


def _database(server: PostgresServer) -> contextlib.AbstractContextManager[PostgresDatabase]:
    server.start()
    return server.database()


def execute(
    project: Path, words: list[str], values: Mapping[str, object], names: list[str], env: Mapping[str, str], at_once: int
) -> dict[str, float]:  # fmt: skip
    """Execute a run for each scenario on a new stack. Returns the values of `counted`."""
    with stack(2) as workers:

        def run(name: str) -> None:
            runner = DbtRunner(project, threads=None, broker_url=workers.server.broker_url, environ=env)
            variables = json.dumps({**values, "scenario": name})
            succeeded(runner.execute_command([*words, "--vars", variables], stream_output=False))

        run("warm")  # parses the project
        with counted(workers) as used, ThreadPoolExecutor(at_once) as threads:
            for done in [threads.submit(run, name) for name in names]:
                done.result()
    return used


def bench(options: Options) -> Outcome:
    """Measure CPU and wall seconds, once each way."""
    scenarios, few = options.pick((4, 2), (64, 8))
    models, tests = options.pick((24, 60), (120, 870))
    small, large = options.folder / "small", options.folder / "large"
    cases = {
        f"{scenarios} scenarios of 12 models": (small, ["run"], small_project(small), scenarios),
        f"{few} scenarios of {models} models and {tests} tests": (large, ["run"], large_project(large, models, tests), few),
    }  # fmt: skip
    rows: list[list[str | int | float | None]] = []
    ratios: list[float] = []
    with contextlib.closing(PostgresServer()) as server, _database(server) as database:
        for what, (project, words, values, count) in cases.items():
            for target in (POSTGRES, DUCKDB):
                env = environment_of(database, target, options.folder)
                used = {
                    way: execute(
                        project, words, values, [f"{way[:3].strip()}_{number}" for number in range(count)], env, at_once
                    )
                    for way, at_once in ((ONE, 1), (ALL, count))
                }  # fmt: skip
                ratios.append(used[ALL]["cpu"] / used[ONE]["cpu"])
                rows.append([
                    f"{what}, {target}", used[ONE]["cpu"], used[ALL]["cpu"], ratios[-1], used[ONE]["wall"], used[ALL]["wall"],
                ])  # fmt: skip
    return Outcome(
        "Many var sets at once",
        tables=[Table("Seconds", ["", f"CPU, {ONE}", f"CPU, {ALL}", "times", f"wall, {ONE}", f"wall, {ALL}"], rows)],
        targets=[at_most("many-var-sets", f"CPU of all runs {ALL}, times that of the same {ONE}, at worst", 1.0, max(ratios))],
        notes=["CPU of two worker processes, their parent and Redis. Each way once, on a stack of its own."],
        data={"ratios": ratios},
    )  # fmt: skip
