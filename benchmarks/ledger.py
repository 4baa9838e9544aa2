"""The ledger under load, with workers that execute nothing: without dbt and Celery, on a real server.

    python -m benchmarks.ledger [--nodes 10000] [--runs 200] [--each 50] [--workers 8] [--json FILE]

Measured on a private server without persistence:

- ``giant``: one run of NODES nodes in layers of a hundred, from submit to purge; and in one flat layer
- ``queue``: RUNS runs of EACH nodes, all submitted before the first is executed
- ``fair``: a run of 5 nodes submitted after the giant one: how many nodes of the giant are executed meanwhile

Every node writes what a dbt model writes: a result, an attempt, two lines, and a change of the relation
cache. Memory is the server's ``used_memory``, which includes messages in the queue. Time in scripts is
measured by the server (``INFO commandstats``); calls above 1 ms are counted by script (``SLOWLOG``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from tests.support.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.keys import QUEUE, Keys, new_run_id
from workers.contract.messages import RunRequest
from workers.contract.purge import purge
from workers.contract.results import Attempt
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Move, StagedNode
from workers.supervision.reaper import Reaper

MESSAGE = "x" * 900
"""About the size of kombu's message for one of our tasks."""

RESULT = json.dumps({"unique_id": "model.bench.x", "result": {"timing": [], "text": "x" * 1200}}).encode()
LINE = json.dumps({"kind": "line", "text": "12:00:00  1 of 10000 OK created sql table model x [OK in 0.1s]"})
FINAL = json.dumps({"return_code": 0})


class TimedLedger(Ledger):
    """Records the seconds of each call by script, including the round trip to the server."""

    seconds: dict[str, list[float]]

    def call(self, name: str, run_id: str, *args: Any) -> Any:
        began = time.perf_counter()
        try:
            return super().call(name, run_id, *args)
        finally:
            self.seconds[name].append(time.perf_counter() - began)


class Bench:
    """Simulated workers that take messages from a server in turn."""

    def __init__(self, server: RedisServer, workers: int) -> None:
        self.client = connect(server.url)
        self.ledger = TimedLedger(self.client, keys=Keys("bench"), lease_ms=600_000)
        self.ledger.seconds = defaultdict(list)
        self.workers = workers
        self.peak = 0
        self.done: Counter[str] = Counter()
        self.ended: dict[str, int] = {}
        self.started = 0
        self.layer = 100

    def memory(self) -> int:
        used = int(self.client.info("memory")["used_memory"])  # type: ignore[index]
        self.peak = max(self.peak, used)
        return used

    def publish(self, run_id: str, steps: tuple[str, ...]) -> None:
        for step in steps:
            self.client.lpush(QUEUE, json.dumps([run_id, step, MESSAGE]))

    def submit(self, nodes: int, threads: int) -> str:
        request = RunRequest(
            run_id=new_run_id(), args=("build", "--threads", str(threads), str(nodes)), cwd="/p",
            project_dir="/p", env={"SOME": "x" * 1500},
        )  # fmt: skip
        self.publish(request.run_id, (self.ledger.submit(request),))
        return request.run_id

    def work(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let each worker take a message, then let all finish, until the queue is empty."""
        while not until():
            claims = []
            for _ in range(self.workers):
                raw: Any = self.client.rpop(QUEUE)
                if raw is None:
                    break
                run_id, step, _ = json.loads(raw)
                claim = self.ledger.claim(run_id, step, "bench:1")
                if isinstance(claim, Claim):
                    self.publish(run_id, claim.publish)
                    claims.append(claim)
            if not claims:
                return
            for claim in claims:
                self.perform(claim)
            self.started += len(claims)
            if self.started % 50 < self.workers:
                self.memory()

    def perform(self, claim: Claim) -> None:
        if claim.step == "@plan":
            return self.plan(claim)
        if claim.step == "@close":
            self.ledger.results(claim.run_id)
            self.ledger.attempts(claim.run_id)
            self.ledger.finish(claim, Move(word="done", final=FINAL, final_state="succeeded"))
            self.ended[claim.run_id] = self.started
            return None
        self.ledger.append_events(claim.run_id, "bench", 2 * claim.index + 1, [LINE.encode()] * 2)
        attempt = Attempt(
            step=claim.step, number=1, worker="bench:1", started_at=0.0, finished_at=1.0, status="success"
        )
        publish = self.ledger.finish(
            claim, Move(word="success", cache=('["db","schema","name","table"]',)), result=RESULT,
            attempt=attempt,
        )  # fmt: skip
        self.publish(claim.run_id, publish)
        self.done[claim.run_id] += 1
        return None

    def plan(self, claim: Claim) -> None:
        request = self.ledger.request(claim.run_id)
        assert request is not None
        threads, nodes = int(request.args[2]), int(request.args[3])
        staged = layered(nodes, self.layer)
        self.ledger.stage(claim, staged, roots=tuple(node.id for node in staged[: self.layer]))
        facts: dict[str, str | int | float] = {"parallel": threads, "mode": "message"}
        self.publish(claim.run_id, self.ledger.finish(claim, Move(word="planned", facts=facts, nodes=nodes)))

    # -- statistics of the server ------------------------------------------------------------------

    def reset(self) -> None:
        self.client.flushall()
        self.submit(3, 2)  # loads scripts and sizes buffers
        self.work()
        purge(self.ledger, older_than=0)
        self.client.config_set("slowlog-log-slower-than", 1000)
        self.client.config_set("slowlog-max-len", 5000)
        self.client.config_resetstat()
        self.client.slowlog_reset()
        self.ledger.seconds.clear()
        self.done.clear()
        self.ended.clear()
        self.started = self.peak = 0
        self.layer = 100

    def scripts(self) -> dict[str, Any]:
        stats: Any = self.client.info("commandstats")
        evalsha = stats.get("cmdstat_evalsha", {"calls": 0, "usec_per_call": 0.0})
        names = {script.sha: name for name, script in self.ledger._scripts.items()}  # noqa: SLF001  # noqa: SLF001  a script is known by its SHA
        slow: dict[str, list[float]] = defaultdict(list)
        for entry in self.client.slowlog_get(5000):  # type: ignore[union-attr]
            words = entry["command"].split()
            name = names.get(words[1].decode(), "?") if words[0].upper() == b"EVALSHA" else words[0].decode()
            slow[name].append(entry["duration"] / 1000)
        return {
            "calls": evalsha["calls"],
            "server_us_per_call": evalsha["usec_per_call"],
            "over_1_ms": {name: {"calls": len(ms), "worst_ms": max(ms)} for name, ms in slow.items()},
            "round_trip_ms_median_and_worst": {
                name: [round(statistics.median(took) * 1000, 3), round(max(took) * 1000, 2)]
                for name, took in sorted(self.ledger.seconds.items())
            },
        }  # fmt: skip


def layered(nodes: int, width: int) -> list[StagedNode]:
    """Nodes in layers of `width`. Each has two parents in the layer above and two children below."""

    def name(number: int) -> str:
        return f"model.bench.some_model_with_a_name_{number:05}"

    out = []
    for number in range(nodes):
        layer, place = divmod(number, width)
        below = (layer + 1) * width
        places = sorted({place, (place + 1) % width})
        children = tuple(name(below + child) for child in places if below + child < nodes)
        out.append(StagedNode(name(number), layer, 1 if layer == 0 else min(2, width), children))
    return out


def giant(bench: Bench, nodes: int, layer: int = 100) -> dict[str, Any]:
    bench.layer = layer
    before = bench.memory()
    began = time.perf_counter()
    run_id = bench.submit(nodes, 8)
    bench.work(until=lambda: bool(bench.client.hexists(bench.ledger.keys.run(run_id), "planned")))
    planned = bench.memory()
    bench.work()
    took = time.perf_counter() - began
    after = bench.memory()
    assert bench.done[run_id] == nodes + 1, bench.done
    scripts = bench.scripts()
    purge(bench.ledger, older_than=0)
    return {
        "nodes": nodes, "seconds": round(took, 1), "steps_per_second": round((nodes + 3) / took),
        "bytes_per_node_planned": round((planned - before) / nodes),
        "bytes_per_node_at_the_end": round((after - before) / nodes),
        "bytes_per_node_peak": round((bench.peak - before) / nodes),
        "left_after_purge": left(bench, before), **scripts,
    }  # fmt: skip


def left(bench: Bench, before: int) -> dict[str, int]:
    """Remaining keys and bytes, after the server has freed unlinked keys."""
    info: Any = bench.client.info("memory")
    while info["lazyfree_pending_objects"]:
        info = bench.client.info("memory")
    return {"keys": int(bench.client.dbsize()), "bytes": info["used_memory"] - before}  # type: ignore[arg-type]


def queue(bench: Bench, runs: int, each: int) -> dict[str, Any]:
    before = bench.memory()
    began = time.perf_counter()
    for _ in range(runs):
        bench.submit(each, 4)
    submitted, queued = time.perf_counter() - began, bench.memory()
    reaper = Reaper(bench.ledger, bench.publish, queue=QUEUE, interval=2.0)
    sweeps = []

    def sweep_now_and_then() -> bool:
        if bench.started // 500 > len(sweeps):
            start = time.perf_counter()
            reaper.sweep()
            sweeps.append(time.perf_counter() - start)
        return False

    began = time.perf_counter()
    bench.work(until=sweep_now_and_then)
    took = time.perf_counter() - began
    assert len(bench.ended) == runs
    after, scripts = bench.memory(), bench.scripts()
    purge(bench.ledger, older_than=0)
    return {
        "runs": runs, "nodes_each": each, "submit_seconds": round(submitted, 2), "seconds": round(took, 1),
        "steps_per_second": round(runs * (each + 3) / took),
        "kilobytes_per_queued_run": round((queued - before) / runs / 1024, 1),
        "megabytes_peak": round((bench.peak - before) / 2**20, 1),
        "bytes_per_node_at_the_end": round((after - before) / runs / each),
        "left_after_purge": left(bench, before),
        "sweep_ms_median_and_worst": [round(statistics.median(sweeps) * 1000, 2), round(max(sweeps) * 1000, 2)]
        if sweeps else None, **scripts,
    }  # fmt: skip


def fair(bench: Bench, nodes: int, threads: int) -> dict[str, Any]:
    """Count the steps of a giant run that start between submit and end of a small run."""
    big = bench.submit(nodes, threads)
    bench.work(until=lambda: bench.done[big] > 300)
    before = bench.done[big]
    small = bench.submit(5, 4)
    bench.work(until=lambda: small in bench.ended)
    return {"giant_threads": threads, "giant_nodes": nodes, "small_nodes": 5,
            "giant_nodes_meanwhile": bench.done[big] - before}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    server = RedisServer(appendonly="no")
    server.start()
    try:
        bench = Bench(server, args.workers)
        found: dict[str, Any] = {
            "machine": machine(),
            "workers": bench.workers,
            "command": " ".join(["python", *sys.argv]),
        }
        for name, measure in (
            ("giant", lambda: giant(bench, args.nodes)),
            ("giant, flat", lambda: giant(bench, args.nodes, layer=args.nodes)),
            ("queue", lambda: queue(bench, args.runs, args.each)),
            ("fair, 4 threads", lambda: fair(bench, min(args.nodes, 3000), 4)),
            ("fair, 1000 threads", lambda: fair(bench, min(args.nodes, 3000), 1000)),
        ):
            bench.reset()
            found[name] = measure()
    finally:
        server.close()
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
