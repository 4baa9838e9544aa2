"""Checks that a step keeps its lease while it computes for a minute on an overloaded machine.

    python -m benchmarks.starvation [--runs 20] [--at-once 5] [--busy 20] [--seconds 60] [--json FILE]

Each run builds one model on its own DuckDB file and has an on-run-end hook. For half of the time the model's Jinja
loops. For the other half the hook's Jinja calls a regular expression that holds Python's global lock (GIL) for
`CALL_SECONDS` of CPU at a time, which on an overloaded machine is longer than a lease. One worker executes `at-once`
runs at a time with default settings, next to `busy` processes that only compute. The server is on the same machine.

Counts the steps that lost their lease and the hooks that were executed again. Reads the leases every half second: the
shortest remaining time of a lease is the margin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.measure import machine
from producer.runner import DbtRunner
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.worker_pool import WorkerPools
from workers.contract.events import Event
from workers.contract.keys import Keys
from workers.ledger.ledger import LEASE_MS

CALL_SECONDS = 1.5

MACROS = """
{% macro is_over(began) %}
  {{- return((modules.datetime.datetime.now() - began).total_seconds() > (var('seconds') | float) / 2) -}}
{% endmacro %}

{% macro compute() %}
  {% if execute %}
    {% set began, state = modules.datetime.datetime.now(), namespace(sum=0, over=false) %}
    {% for _ in range(100000) if not state.over %}
      {% for i in range(10000) %}{% set state.sum = state.sum + i %}{% endfor %}
      {% set state.over = is_over(began) %}
    {% endfor %}
  {% endif %}
{% endmacro %}

{% macro keep_the_gil() %}
  {% if execute %}
    {% set began, state = modules.datetime.datetime.now(), namespace(over=false) %}
    {% for _ in range(1000) if not state.over %}
      {% do modules.re.match('(a|aa)+$', 'a' * (var('length') | int) ~ 'b') %}
      {% set state.over = is_over(began) %}
    {% endfor %}
  {% endif %}
{% endmacro %}
"""

HOOKS = """
on-run-end:
  - "create table if not exists hooks (n integer)"
  - "{{ keep_the_gil() }} insert into hooks values (1)"
"""

BUSY = (
    "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end:\n    pass\n"
)


def length_of_call() -> int:
    """Length of a text for which the regular expression takes `CALL_SECONDS` on an idle machine."""
    for length in range(20, 60):
        began = time.process_time()
        re.match("(a|aa)+$", "a" * length + "b")
        if time.process_time() - began > CALL_SECONDS / 1.6:  # it grows by 1.6 with each letter
            return length + 1
    raise RuntimeError("the regular expression ends too early")


@contextlib.contextmanager
def busy(processes: int, seconds: float) -> Iterator[None]:
    """Run processes that compute until the end of the block, at most `seconds`."""
    running = [
        subprocess.Popen([sys.executable, "-S", "-c", BUSY, str(seconds)]) for _ in range(processes)
    ]  # fmt: skip
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


class Margin:
    """Samples the shortest remaining time of any lease, in seconds."""

    def __init__(self, server: RedisServer) -> None:
        self.least, self.of, self.most_load = LEASE_MS / 1000, "", 0.0
        self._client, self._key = server.client(), Keys("relay").leases()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Margin:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(0.5):
            with self._client.pipeline() as pipe:  # read both at the same time
                pipe.time()
                pipe.zrange(self._key, 0, 0, withscores=True)
                (seconds, micros), first = pipe.execute()
            self.most_load = max(self.most_load, os.getloadavg()[0])
            left = first[0][1] / 1000 - seconds - micros / 1e6 if first else self.least
            if left < self.least:
                self.least, self.of = left, str(first[0][0]).partition(" ")[2]


def project_in(folder: Path) -> Path:
    """Write a project with one model and one hook."""
    project = copy_project("slow", folder)
    for model in (project / "models").glob("*.sql"):
        model.unlink()
    (project / "models" / "computed.sql").write_text("{{ compute() }} select 1 as id")
    (project / "macros" / "compute.sql").write_text(MACROS)
    with (project / "dbt_project.yml").open("a") as file:
        file.write(HOOKS)
    return project


def run_one(server: RedisServer, folder: Path, number: int, options: dict[str, float]) -> dict[str, Any]:
    """Run once. Returns the lost leases and repeated steps."""
    events: list[Event] = []
    file = folder / f"{number}.duckdb"
    environ = {**os.environ, "RELAY_TEST_TARGET": "duckdb", "RELAY_TEST_DUCKDB": str(file)}
    runner = DbtRunner(
        project_in(folder / str(number)),
        broker_url=server.broker_url,
        environ=environ,
        on_event=events.append,
    )
    result = runner.execute_command(["run"], dbt_vars=options, stream_output=False)
    with duckdb.connect(str(file)) as connection:
        (hooks,) = connection.execute("select count(*) from hooks").fetchall()[0]
    attempts = [attempt for node in result.nodes for attempt in node.attempts] + list(result.attempts)
    found = {
        "success": result.success, "seconds": round(result.execution_time, 1), "hooks": hooks,
        "lost": [event.node for event in events if event.state == "lost"],
        "repeated": [attempt.step for attempt in attempts if attempt.number > 1],
    }  # fmt: skip
    print(f"run {number + 1:3}: {json.dumps(found)}", flush=True)
    return found


def main() -> int:
    """Print each run, and how many lost a lease."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=5)
    parser.add_argument("--busy", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = {"seconds": given.seconds, "length": length_of_call()}
    print(json.dumps({"machine": machine(), **options}))
    server = RedisServer()
    server.start()
    limit = 60 + 4 * given.seconds * given.runs / given.at_once
    try:
        with (
            tempfile.TemporaryDirectory() as name,
            WorkerPools.on(server) as pools,
            ThreadPoolExecutor(given.at_once) as at_once,
        ):
            pools(given.at_once)
            with busy(given.busy, limit), Margin(server) as margin:
                runs = list(
                    at_once.map(
                        lambda number: run_one(server, Path(name), number, options), range(given.runs)
                    )
                )
    finally:
        server.close()
    lost = sum(len(run["lost"]) for run in runs)
    repeated = sum(len(run["repeated"]) for run in runs)
    failed = sum(not run["success"] or run["hooks"] != 1 for run in runs)
    print(
        f"{len(runs)} runs: {lost} leases lost, {repeated} steps executed again, {failed} runs failed or with "
        f"hooks executed twice; least left of a lease {margin.least:.1f} s ({margin.of}), load {margin.most_load:.0f}"
    )
    if given.json:
        found = {"machine": machine(), "runs": runs, "least": margin.least, "load": margin.most_load}
        given.json.write_text(json.dumps(found, indent=1))
    return int(bool(lost or repeated or failed))


if __name__ == "__main__":
    raise SystemExit(main())
