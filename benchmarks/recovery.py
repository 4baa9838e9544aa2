"""Measures how long it takes until the node of a killed host runs elsewhere, with default settings.

    python -m benchmarks.recovery [--kills 10] [--hosts 3] [--seed 1] [--json FILE]

Each host is a worker (Celery's main process and one pool process) in its own process group. The group is killed
(SIGKILL) at a random moment while it executes a node that takes minutes. The clock stops when that node logs on another
host that it is working. Then the run is cancelled, which is timed until the run has ended, and the host is started
again. Both ways of execution are measured: node by node (Postgres) and in a session (DuckDB).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from producer.client import RelayClient
from tests.support.postgres_server import NoPostgresError, PostgresServer
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.events import STATE, Event

ALLOWED = {"takeover": 15.0, "cancel": 3.0}
"""Maximum seconds."""

EVENT_TIMEOUT = 120.0


class Watch:
    """Collects the events of a run in a background thread."""

    def __init__(self, client: RelayClient, run_id: str) -> None:
        self.events: list[Event] = []
        self._client, self._run_id = client, run_id
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        for event in self._client.watch(self._run_id):
            self.events.append(event)

    def working(self) -> list[Event]:
        """Events with which the first node logs that it is working, one for each execution."""
        return [event for event in self.events if "working on first" in event.text]

    def worker(self) -> int:
        """Process id of the worker that claimed the first node last."""
        claims = [
            event for event in self.events
            if event.kind == STATE and event.state == "running" and event.node.endswith(".first")
        ]  # fmt: skip
        return int(claims[-1].worker.rpartition(":")[2])


def kill_one(
    server: RedisServer, project: Path, hosts: list[WorkerPool], dice: random.Random
) -> dict[str, float]:
    """Measure seconds from the kill to the node's first line on another host, and from a cancel to the run's end."""
    client = RelayClient(server.broker_url)
    run_id = submit(server, project, ["run", "--select", "first", "--vars", "{seconds: 300}"])
    watch = Watch(client, run_id)
    wait_until(watch.working, EVENT_TIMEOUT, "the node to run")
    time.sleep(dice.uniform(0, 3))  # a random moment between two lease renewals and two reaper sweeps
    victim = watch.worker()
    host = next(each for each in hosts if victim in each.children)
    killed = time.time()
    host.kill()
    again = wait_until(lambda: watch.working()[1:], EVENT_TIMEOUT, "the node to run elsewhere")
    assert watch.worker() != victim
    cancelled = time.time()
    client.cancel(run_id)
    watch.thread.join(EVENT_TIMEOUT)
    assert not watch.thread.is_alive(), "the run did not end"
    host.start()
    return {"takeover": again[0].at - killed, "cancel": watch.events[-1].at - cancelled}


def measure(target: str, kills: int, hosts: int, dice: random.Random, folder: Path) -> dict[str, list[float]]:
    """Measure seconds on one kind of warehouse."""
    os.environ["RELAY_TEST_TARGET"] = target
    os.environ["RELAY_TEST_DUCKDB"] = str(folder / "warehouse.duckdb")
    project = copy_project("slow", folder / target)
    server = RedisServer()
    server.start()
    try:
        with WorkerPools.on(server) as pools:
            running = [pools(1) for _ in range(hosts)]
            times: dict[str, list[float]] = {"takeover": [], "cancel": []}
            for number in range(kills):
                took = kill_one(server, project, running, dice)
                for what, seconds in took.items():
                    times[what].append(seconds)
                shown = "".join(f"   {what} {seconds:6.2f} s" for what, seconds in took.items())
                print(f"{target:10}kill {number + 1:3}{shown}", flush=True)
    finally:
        server.close()
    return times


def main() -> int:
    """Print each takeover, and median and worst of each kind of warehouse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    found: dict[str, Any] = {"machine": machine(), "seed": options.seed, "hosts": options.hosts}
    print(json.dumps(found))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            postgres = PostgresServer()
        except NoPostgresError as error:
            print(f"Postgres is not measured: {error}")
        else:
            postgres.start()
            try:
                with postgres.database() as database:
                    os.environ.update(database.env)
                    found["postgres"] = measure("postgres", options.kills, options.hosts, dice, folder)
            finally:
                postgres.close()
        found["duckdb"] = measure("duckdb", options.kills, options.hosts, dice, folder)
    worst = dict.fromkeys(ALLOWED, 0.0)
    for target in ("postgres", "duckdb"):
        for what, times in found.get(target, {}).items():
            worst[what] = max(worst[what], *times)
            print(
                f"{target:10}{what:10}{len(times)} times: median {statistics.median(times):.1f} s, "
                f"worst {max(times):.1f} s, best {min(times):.1f} s"
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    for what, allowed in ALLOWED.items():
        print(f"{what}: worst {worst[what]:.1f} s, allowed {allowed:.0f} s")
    return int(any(worst[what] > allowed for what, allowed in ALLOWED.items()))


if __name__ == "__main__":
    raise SystemExit(main())
