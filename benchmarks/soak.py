"""Checks that the memory of workers and Redis does not grow under continuous runs.

    RELAY_SOAK_MINUTES=60 python -m benchmarks.soak [--json FILE]

Three producers submit runs: builds of the demo, year after year (with more sets of vars than a worker keeps parsed
projects), and builds of tests/projects/features on DuckDB and, if there is a server, on Postgres. Two workers, one with
two processes and one with one, execute them. Results are kept for two minutes.

Sampled every ten seconds: PSS of each worker process (its memory and its share of shared memory), the server's
``used_memory`` and its number of keys. Samples before every year was built once, and of the first quarter of the time,
are warm-up and do not count. The slope of a figure is the median of the slopes between all pairs of samples
(Theil-Sen). A figure is flat if by its slope it grew less than 5 % of its median, or less than 1 MB (100 keys) an hour.
The soak fails if a figure is not flat, a run failed, or a process was replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import machine
from producer.runner import DbtRunner
from tests.support.postgres_server import NoPostgresError, PostgresDatabase, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPool, WorkerPools

YEARS = range(2025, 2029)
CONTEXTS = 4
"""Parsed projects that a process keeps: fewer than are used, so that processes drop and load them all the time."""

KEPT_SECONDS = 120
SAMPLE_SECONDS = 10.0
GROWTH = 0.05
FLOOR = {"MB": 1.0, "keys": 100.0}
"""An hourly slope below this is flat, however small the figure itself."""

Samples = dict[str, list[tuple[float, float]]]


class Load:
    """Producers in threads, which submit runs until `stop`."""

    def __init__(self, server: RedisServer, folder: Path, environ: dict[str, str]) -> None:
        self.runs: Counter[str] = Counter()
        self.nodes = 0
        self.failures: list[str] = []
        self._server, self._folder, self._environ = server, folder, environ
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, project: str, env: dict[str, str], years: bool = False) -> None:
        """Start to build a copy of a project repeatedly."""
        path = copy_project(project, self._folder / name)
        environ = {**self._environ, "DATABASE_PATH": str(self._folder / f"{name}.duckdb"), **env}
        runner = DbtRunner(path, broker_url=self._server.broker_url, environ=environ)
        thread = threading.Thread(target=self._work, args=(name, runner, years), name=name)
        self._threads.append(thread)
        thread.start()

    def _work(self, name: str, runner: DbtRunner, years: bool) -> None:
        for year in itertools.cycle(YEARS):
            if self._stop.is_set():
                return
            options: dict[str, Any] = {"simulation_year": year} if years else {}
            command = (
                ["build", "--full-refresh"] if year == YEARS[0] else ["build"]
            )  # so that the data do not grow
            try:
                result = runner.execute_command(command, stream_output=False, **options)
            except Exception as error:  # noqa: BLE001 - the soak reports it and fails
                self.failures.append(f"{name} {year}: {error}")
                return
            if not result.success:
                self.failures.append(f"{name} {year}: {result.error}\n{result.stdout[-1500:]}")
                return
            self.runs[name] += 1
            self.nodes += len(result.nodes)

    def stop(self) -> None:
        """Stop the producers after their current runs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(300)


def sample(server: RedisServer, pools: list[WorkerPool]) -> dict[str, float]:
    """Read all figures, by name; memory in MB."""
    figures: dict[str, float] = {}
    for pool in pools:
        for pid, kind in [(pool.pid, "parent"), *((child, "child") for child in pool.children)]:
            figures[f"{pool.name} {kind} {pid}, MB"] = psutil.Process(pid).memory_full_info().pss / 2**20
    with server.client() as client:
        info: Any = client.info("memory")
        figures["Redis used_memory, MB"] = info["used_memory"] / 2**20
        figures["Redis keys"] = float(client.dbsize())  # type: ignore[arg-type]
    return figures


def slope(samples: list[tuple[float, float]]) -> float:
    """Theil-Sen slope an hour; x in seconds."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(samples, 2)]
    return statistics.median(slopes) * 3600 if slopes else 0.0


def judge(samples: Samples, warm: float, until: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each figure, and the problems."""
    rows, wrong = [], []
    for name, all_of_it in samples.items():
        counted = [each for each in all_of_it if each[0] >= warm]
        if len(counted) < 10 or all_of_it[0][0] > warm or all_of_it[-1][0] < until - 3 * SAMPLE_SECONDS:
            wrong.append(f"{name}: not there from the warm-up to the end")
            continue
        middle = statistics.median(value for _, value in counted)
        hourly = slope(counted)
        grown = hourly * (counted[-1][0] - counted[0][0]) / 3600
        flat = grown < GROWTH * middle or hourly < FLOOR["keys" if name.endswith("keys") else "MB"]
        rows.append(
            {"figure": name, "first": round(counted[0][1], 1), "median": round(middle, 1),
             "last": round(counted[-1][1], 1), "highest": round(max(value for _, value in counted), 1),
             "slope_per_hour": round(hourly, 2), "grown": round(grown, 2), "flat": flat}
        )  # fmt: skip
        if not flat:
            wrong.append(f"{name}: grew by {grown:.1f} of {middle:.1f}, {hourly:.1f} an hour")
    return rows, wrong


def _database(stack: contextlib.ExitStack) -> PostgresDatabase | None:
    """Create a database that is dropped when `stack` is closed; None without a Postgres server."""
    try:
        server = PostgresServer()
    except NoPostgresError as error:
        print(f"without Postgres: {error}")
        return None
    stack.callback(server.close)
    server.start()
    return stack.enter_context(server.database())


def soak(minutes: float, folder: Path) -> dict[str, Any]:
    """Run the soak. Returns its results."""
    samples: Samples = defaultdict(list)
    with contextlib.ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.close)
        server.start()
        database = _database(stack)
        of_postgres = {} if database is None else database.env  # dbt-relay does not send passwords
        env = {"DBT_RELAY_RESULT_TTL": str(KEPT_SECONDS), "DBT_RELAY_CONTEXTS": str(CONTEXTS), **of_postgres}
        start = stack.enter_context(WorkerPools.on(server))
        pools = [start(2, env=env), start(1, env=env)]
        load = Load(server, folder, dict(os.environ))
        stack.callback(load.stop)
        load.start("demo", "demo", {}, years=True)
        load.start("features", "features", {})
        if database is not None:
            load.start("postgres", "features", {**of_postgres, "DBT_TARGET": "postgres"})
        began, warm = time.monotonic(), 0.0
        while (took := time.monotonic() - began) < minutes * 60 and not load.failures:
            if load.runs["demo"] < len(YEARS):
                warm = took
            for name, value in sample(server, pools).items():
                samples[name].append((took, value))
            time.sleep(SAMPLE_SECONDS)
    warm = max(warm, took / 4)
    rows, wrong = judge(samples, warm, took)
    return {
        "minutes": round(took / 60, 1), "warm_up_minutes": round(warm / 60, 1), "runs": dict(load.runs), "nodes": load.nodes, "figures": rows,
        "wrong": [*load.failures, *wrong], "machine": machine(), "samples": samples,
    }  # fmt: skip


def main() -> int:
    """Print the figures, their slopes and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("RELAY_SOAK_MINUTES", "60")))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = soak(options.minutes, Path(name))
    if options.json:
        options.json.write_text(json.dumps(found))
    print(json.dumps(found["machine"]))
    print(
        f"{found['minutes']} minutes ({found['warm_up_minutes']} of them warming up), {found['runs']} runs, {found['nodes']} nodes"
    )
    print(f"{'':34}{'first':>9}{'median':>9}{'last':>9}{'highest':>9}{'an hour':>9}{'grown':>8}")
    for row in found["figures"]:
        print(
            f"{row['figure']:34}{row['first']:9}{row['median']:9}{row['last']:9}{row['highest']:9}"
            f"{row['slope_per_hour']:+9}{row['grown']:+8}  {'flat' if row['flat'] else 'NOT FLAT'}"
        )
    for each in found["wrong"]:
        print(each)
    print("NOT FLAT" if found["wrong"] else "flat")
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    raise SystemExit(main())
