"""Streaming: latency of a line from the engine's callback to a watcher.

Nodes on two worker processes emit lines at a given total rate (`stub_engine`: all else is real), and a
`RelayClient.watch` in another process receives them. A line has the time at which it was emitted, by the same machine's
clock. No line may be lost, or arrive out of order within its node.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.carrier import PROCESSES, Stubs, stubs
from benchmarks.measure import Options, Outcome, Plot, Table, at_most
from tests.support.redis_server import RedisServer
from workers.contract.events import LINE, Event

RATES = (100, 1000, 10_000)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that a share (0 to 1) of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def received(workers: Stubs, rate: int, seconds: float) -> tuple[list[tuple[float, Event]], int]:
    """Return all lines with their times of arrival, and the number of emitted lines."""
    each, nodes = rate / PROCESSES, 2 * PROCESSES
    lines = max(1, int(each * seconds))
    run_id = workers.submit(nodes, width=nodes, lines=lines, rate=each)
    events = ((time.time(), event) for event in workers.client.watch(run_id, timeout=600))
    return [(at, event) for at, event in events if event.kind == LINE], nodes * lines


def in_order(lines: Sequence[tuple[float, Event]]) -> bool:
    """Whether each node's lines arrived in order."""
    last: dict[str, float] = {}
    for _, event in lines:
        if event.at < last.get(event.node, 0.0):
            return False
        last[event.node] = event.at
    return True


def bench(options: Options) -> Outcome:
    """Measure latency, rate and loss at each rate."""
    seconds = options.pick(0.5, 3.0, 10.0)
    table = Table(
        "", ["lines a second, wanted", "emitted", "received", "lines", "lost", "p50 ms", "p99 ms", "worst ms"], []
    )  # fmt: skip
    lost, disorder, series = 0, 0, dict[str, list[float | None]](p50=[], p99=[])
    server = RedisServer(appendonly="no")
    try:
        server.start()
        with stubs(server, PROCESSES) as workers:
            workers.run(10)
            for rate in RATES:
                lines, emitted = received(workers, rate, seconds)
                late = [(at - event.at) * 1000 for at, event in lines]
                began, ended = min(event.at for _, event in lines), max(event.at for _, event in lines)
                p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
                lost += emitted - len(lines)
                disorder += not in_order(lines)
                table.rows.append(
                    [rate, emitted / max(ended - began, 1e-9), len(lines) / (max(at for at, _ in lines) - began), emitted,
                     emitted - len(lines), p50, p99, max(late)]
                )  # fmt: skip
                series["p50"].append(p50)
                series["p99"].append(p99)
    finally:
        server.close()
    if disorder:
        raise RuntimeError("lines of a node came out of order")
    return Outcome(
        "Streaming",
        tables=[table],
        plots=[Plot("streaming", "From dbt's line to a watcher", "lines a second", "milliseconds", [float(each) for each in RATES], series, log="xy")],
        targets=[at_most("streaming-lost", "streaming, up to 10,000 lines a second: lines lost", 0, lost)],
        notes=[
            (f"{2 * PROCESSES} nodes, {PROCESSES} at once, each emits its share of the rate for {seconds:g} s. A line is batched with "
            "those of 10 ms. *emitted* is the rate that the nodes reached beside the server and the watcher on this machine, "
            "*received* the watcher's rate, from its first line to its last.")
        ],
        data={},
    )  # fmt: skip
