"""Ten builds with random vars, on worker processes that join in random order.

``PARITY_SEED`` repeats a run: a failed run prints its seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from producer.client import RelayClient
from tests.parity.conftest import postgres_pair_in
from tests.parity.harness import Change, Dbt, Pair, Step, check
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.events import STATE
from workers.contract.results import STEP_STATES
from workers.verify.sides import Side

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(1500)]

OWN_QUEUE = {"DBT_RELAY_QUEUE": "random", "DBT_RELAY_NAMESPACE": "random"}
"""Queue and namespace for these workers, which share the server with others."""

RUNS, PROCESSES = 10, 3


class Turns:
    """Lets worker processes take part in a run one after another."""

    def __init__(self, pools: list[WorkerPool], dice: random.Random) -> None:
        self.pools, self.dice = pools, dice
        self.client = RelayClient(
            pools[0].broker, namespace=OWN_QUEUE["DBT_RELAY_NAMESPACE"], queue=OWN_QUEUE["DBT_RELAY_QUEUE"]
        )
        self.celery = Celery(broker=pools[0].broker)
        self.seen: set[str] = set()
        self._following: threading.Thread | None = None

    def begin(self) -> None:
        """Let one process start the next run; each other process joins after some more nodes."""
        order = self.dice.sample(self.pools, len(self.pools))
        steps = [self.dice.randint(0, 4) for _ in order[1:]]
        print(f"order of processes: {[pool.name for pool in order]}, each after {steps} nodes more")
        self._send("add_consumer", order[0])
        for pool in order[1:]:
            self._send("cancel_consumer", pool)
        self._following = threading.Thread(target=self._join_later, args=(order[1:], steps), daemon=True)
        self._following.start()

    def end(self) -> dict[str, str]:
        """Call after the run. Returns the process that executed each node."""
        assert self._following is not None
        self._following.join(60)
        (run_id,) = self._new_runs()
        self.seen.add(run_id)
        return {node.unique_id: node.worker for node in self.client.collect(run_id, []).nodes if node.worker}

    def _join_later(self, waiting: list[WorkerPool], steps: list[int]) -> None:
        wait_until(self._new_runs, 120, "the run to be submitted")
        (run_id,) = self._new_runs()
        events = self.client.watch(run_id)
        for pool, step in zip(waiting, steps, strict=True):
            done = 0
            while done < step:
                event = next(events, None)
                if event is None:
                    return
                done += event.kind == STATE and event.state not in STEP_STATES
            self._send("add_consumer", pool)

    def _new_runs(self) -> list[str]:
        return [run.run_id for run in self.client.runs() if run.run_id not in self.seen]

    def _send(self, what: str, pool: WorkerPool) -> None:
        name = f"{pool.name}@{socket.gethostname()}"
        answer = getattr(self.celery.control, what)(
            OWN_QUEUE["DBT_RELAY_QUEUE"], destination=[name], reply=True, timeout=30
        )
        assert any("ok" in reply.get(name, {}) for reply in answer), answer


@pytest.fixture
def turns(redis_server: RedisServer, postgres: PostgresServer) -> Iterator[Turns]:
    seed = os.environ.get("PARITY_SEED") or secrets.token_hex(4)
    print(f"PARITY_SEED={seed}")
    with postgres.database() as database, WorkerPools.on(redis_server) as pools:
        secret = {name: value for name, value in database.env.items() if "SECRET" in name}
        yield Turns([pools(1, env={**OWN_QUEUE, **secret}) for _ in range(PROCESSES)], random.Random(seed))


def random_build(dice: random.Random) -> Dbt:
    variables = {
        "region": dice.choice(["north", "south", "all"]),
        "with_status": dice.choice([True, False]),
        "with_optional": dice.choice([True, False]),
        "batch_size": dice.choice(["year", "month"]),
    }
    words = ["build", "--vars", json.dumps(variables), "--threads", str(dice.randint(2, 4))]
    if dice.random() < 0.2:
        words.append("--full-refresh")
    return Dbt(words)


def test_ten_builds_on_random_processes(tmp_path: Path, postgres: PostgresServer, turns: Turns) -> None:
    executed: list[dict[str, str]] = []

    def begin(side: Side) -> None:
        if side.name == "relay":
            turns.begin()

    def end(side: Side) -> None:
        if side.name == "relay":
            executed.append(turns.end())

    with contextlib.ExitStack() as stack:
        pair: Pair = postgres_pair_in(
            tmp_path, "features", postgres, stack, broker=turns.pools[0].broker, **OWN_QUEUE
        )
        steps: list[Step] = []
        for _ in range(RUNS):
            steps += [Change("the next run", begin), random_build(turns.dice), Change("its end", end)]
        check(pair.play("random vars on random processes", steps))

    for number, workers in enumerate(executed, 1):
        shares = {worker: list(workers.values()).count(worker) for worker in sorted({*workers.values()})}
        print(f"run {number}: nodes by process: {shares}")
    processes = {worker for workers in executed for worker in workers.values()}
    assert len(processes) == PROCESSES
    models = set.intersection(*(set(workers) for workers in executed))
    moved = {model for model in models if len({workers[model] for workers in executed}) > 1}
    assert len(moved) > len(models) / 2, (
        "most nodes should be executed by different processes in different runs"
    )
