"""Many var sets at once: runs with a ``--vars`` of their own, one after the other and all at once.

Each scenario has a schema of its own on Postgres, or a DuckDB file of its own. A private stack of two worker processes
executes them one after the other; then another one executes the same all at once. What counts is the CPU of
the workers and of Redis: parsed projects that are lost and loaded again show there.
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
"""The scenario says where it writes."""


def small_project(folder: Path, models: int = 12) -> dict[str, object]:
    """Write models in a chain of threes, each of which reads the scenario; the vars that it wants."""
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
    """Write the project of `changed-vars` for both warehouses; the vars that it wants."""
    values = write_project(folder, models, tests)
    (folder / "profiles.yml").write_text(PROFILES.format(name="simulated"))
    return values


@contextlib.contextmanager
def counted(workers: Stack) -> Iterator[dict[str, float]]:
    """Seconds of CPU (user and system) that workers and Redis use in the block, and of wall."""
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
    """What the profile reads. A name like PASSWORD would not be sent to the workers."""
    more = {"BENCH_TARGET": target, "BENCH_FOLDER": str(folder), "BENCH_PG_ACCESS": database.password}
    return {**environment(), **database.env, **more}


def _database(server: PostgresServer) -> contextlib.AbstractContextManager[PostgresDatabase]:
    server.start()
    return server.database()


def play(
    project: Path, words: list[str], values: Mapping[str, object], names: list[str], env: Mapping[str, str], at_once: int
) -> dict[str, float]:  # fmt: skip
    """Execute a run for each scenario on a stack of its own; see `counted`."""
    with stack(2) as workers:

        def one(name: str) -> None:
            runner = DbtRunner(project, threads=None, broker_url=workers.server.broker_url, environ=env)
            given = json.dumps({**values, "scenario": name})
            succeeded(runner.execute_command([*words, "--vars", given], stream_output=False))

        one("warm")  # the first parse of the project, on either side
        with counted(workers) as used, ThreadPoolExecutor(at_once) as threads:
            for done in [threads.submit(one, name) for name in names]:
                done.result()
    return used


def bench(options: Options) -> Outcome:
    """Seconds of CPU and of wall, once each way."""
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
                    way: play(
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
        targets=[at_most("many-var-sets", f"CPU of all runs {ALL}, times that of the same {ONE}, at worst", 1.1, max(ratios))],
        notes=["CPU of two worker processes, their parent and Redis. Each way once, on a stack of its own."],
        data={"ratios": ratios},
    )  # fmt: skip
