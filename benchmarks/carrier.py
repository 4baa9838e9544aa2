"""Throughput without dbt: empty nodes through plan, ledger, Celery and close, compared with empty Celery tasks.

Our side is real but for the engine (`stub_engine`). A run is timed from submit to a watcher's last event. Celery's side
is one ``group`` of tasks whose results are read from the Redis result backend (`bare_celery`), once with our settings and
once with Celery's defaults. Both use one private server (unix socket, no persistence, as in the embedded stack) and the
same number of pool processes. On our side workers send the messages; on Celery's side a separate process sends the tasks.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import psutil

from benchmarks import stub_engine
from benchmarks.measure import Options, Outcome, Plot, Table, Target, at_least, interleaved
from producer.client import RelayClient
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.contract.results import DbtResult

QUIET = ("--loglevel", "warning", "--without-gossip", "--without-mingle")
MESSAGE, LINES, SESSION = "a message a node", "a message a node, two lines each", "one session (DuckDB)"
OURS, DEFAULTS = "bare Celery, our settings", "bare Celery, its defaults"
PROCESSES = 2


class Stubs:
    """Workers with the stub engine, and their client."""

    def __init__(self, server: RedisServer, processes: int) -> None:
        self.pool = WorkerPool(
            server,
            processes,
            {"DBT_RELAY_LOG_LEVEL": "WARNING"},
            arguments=QUIET,
            app="benchmarks.stub_worker",
        )
        self.client = RelayClient(server.url)
        self.processes = processes

    def submit(self, nodes: int, *, width: int = 0, way: str = MESSAGE, **more: Any) -> str:
        """Submit a run of `nodes` nodes; `more`: see `stub_engine.environment`. Returns the run id."""
        env = stub_engine.environment(
            nodes, width=width or layer_of(nodes), threads=16 * self.processes, session=way == SESSION,
            **({"lines": 2} if way == LINES else {}) | more,
        )  # fmt: skip
        request = RunRequest(
            run_id=new_run_id(), args=("run",), cwd="/", project_dir="/", env=env, return_artifacts=False
        )
        return self.client.submit(request)

    def run(self, nodes: int, **more: Any) -> DbtResult:
        """Submit a run and wait for its last event. Arguments: see `submit`."""
        run_id = self.submit(nodes, **more)
        for _ in self.client.watch(run_id, timeout=600):
            pass
        result = self.client.collect(run_id, [])
        if not result.success or len(result.nodes) != nodes:
            raise RuntimeError(f"the run of {nodes} nodes ended with {result.return_code}: {result.stderr}")
        return result


def layer_of(nodes: int) -> int:
    """Number of nodes in a layer: a twentieth of all nodes, at least ten."""
    return max(10, nodes // 20)


@contextmanager
def stubs(server: RedisServer, processes: int) -> Iterator[Stubs]:
    """Start workers with the stub engine. They are ready."""
    workers = Stubs(server, processes)
    try:
        workers.pool.start()
        yield workers
    finally:
        workers.pool.close()


@contextmanager
def bare(server: RedisServer, processes: int, settings: str) -> Iterator[Callable[[int], float]]:
    """Start a plain Celery worker. Yields a function that executes tasks on it: see `bare_celery.carry`."""
    env = {"BARE_CELERY_URL": server.broker_url, "BARE_CELERY": settings}
    pool = WorkerPool(server, processes, env, arguments=QUIET, app="benchmarks.bare_celery")
    producer = Producer({**pool.env, **env})
    try:
        pool.start(wait=False)
        wait_until(lambda: len(pool.children) >= processes, 60, pool.log, interval=0.1)
        producer.carry(10)
        yield producer.carry
    finally:
        producer.close()
        pool.close()


class Producer:
    """A separate process that sends tasks and collects results: a Celery app is configured once for a process."""

    def __init__(self, env: dict[str, str]) -> None:
        script = (
            "import sys; from benchmarks.bare_celery import carry\n"
            "for line in sys.stdin: print(carry(int(line)), flush=True)"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def carry(self, tasks: int) -> float:
        """Execute `tasks` tasks. Returns seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{tasks}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.stdin and self._process.stdin.close()
        self._process.wait(30)


def bench(options: Options) -> Outcome:
    """Measure tasks a second and CPU a task of each way."""
    sizes = options.pick([300], [1000, 10_000])
    table = Table(
        "Tasks a second",
        ["nodes", "way", "tasks a second", "of bare, our settings", "of bare, defaults", "CPU ms a task"],
        [],
    )
    outcome = Outcome("Carrier only", tables=[table])
    rates: dict[str, list[float | None]] = {}
    with ExitStack() as stack:
        server = RedisServer(appendonly="no")
        stack.callback(server.close)
        server.start()
        workers = stack.enter_context(stubs(server, PROCESSES))
        bares = {
            OURS: stack.enter_context(bare(server, PROCESSES, "ours")),
            DEFAULTS: stack.enter_context(bare(server, PROCESSES, "")),
        }
        for nodes in sizes:
            plans: dict[str, dict[str, list[float]]] = {}
            ways: dict[str, Callable[[], object]] = {
                way: _with_cpu(way, plans, partial(workers.run, nodes, way=way))
                for way in (MESSAGE, LINES, SESSION)
            } | {way: _with_cpu(way, plans, partial(carry, nodes)) for way, carry in bares.items()}
            # a worker imports modules and connects with its first task
            rounds, warm = (options.pick(1, 5, 9), 1) if nodes < 10_000 else (options.pick(1, 1, 3), 0)
            times = interleaved(ways, rounds, warm)
            rate = {way: nodes / statistics.median(each) for way, each in times.items()}
            for way, value in rate.items():
                rates.setdefault(way, []).append(value)
                cpu = statistics.median(plans[way]["cpu"][-rounds:]) / nodes * 1000
                table.rows.append([nodes, way, value, value / rate[OURS], value / rate[DEFAULTS], cpu])
            steps = {step: statistics.median(each[-rounds:]) for step, each in plans[MESSAGE].items()}
            outcome.data[str(nodes)] = {
                "seconds": times, "plan": steps["@plan"], "close": steps["@close"],
                "plan_each": plans[MESSAGE]["@plan"], "close_each": plans[MESSAGE]["@close"],
            }  # fmt: skip
            if nodes == sizes[0]:
                outcome.targets += _targets(nodes, rate)
    labels: list[float | str] = [str(each) for each in sizes]
    outcome.plots.append(
        Plot("carrier", "Empty tasks a second", "nodes", "tasks a second", labels, rates, "bars")
    )
    outcome.notes.append(
        f"Each side has {PROCESSES} pool processes; a session uses one of them. Ours counts from submit to the last event at "
        "a watcher, plan and close included; its nodes store a result in the ledger, release their children and are "
        "announced to watchers. Bare Celery is one `group(...).apply_async()` and `join_native()` of independent tasks "
        "with results in Redis, sent and collected by a process beside the workers. Our settings: early acks, prefetch 1, "
        "`worker_disable_prefetch`, task events for Flower. CPU is of all processes but the watcher: server, worker, and "
        "Celery's producer."
    )
    return outcome


def _targets(nodes: int, rate: dict[str, float]) -> list[Target]:
    return [
        at_least(
            f"carrier-{key}",
            f"carrier, {nodes:,} empty nodes, {PROCESSES} processes, {ours}: tasks a second, of {theirs}",
            0.5, rate[ours] / rate[theirs],
        )
        for key, ours, theirs in (
            ("message", MESSAGE, DEFAULTS), ("message-settings", MESSAGE, OURS), ("session", SESSION, DEFAULTS),
        )
    ]  # fmt: skip


def _with_cpu(
    way: str, kept: dict[str, dict[str, list[float]]], work: Callable[[], object]
) -> Callable[[], None]:
    """Wrap `work` to record the CPU of child processes and the seconds of a run's plan and close."""

    def call() -> None:
        found = kept.setdefault(way, {})
        began = _cpu()
        result = work()
        found.setdefault("cpu", []).append(_cpu() - began)
        for attempt in result.attempts if isinstance(result, DbtResult) else ():
            found.setdefault(attempt.step, []).append(attempt.finished_at - attempt.started_at)

    return call


def _cpu() -> float:
    """CPU seconds of all living descendants of this process."""
    return sum(sum(each.cpu_times()[:2]) for each in psutil.Process().children(recursive=True))
