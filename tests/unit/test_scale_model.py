"""The scaling model (docs/scaling.md) on graphs with known results."""

from __future__ import annotations

import pytest

from benchmarks.scale import Costs, limit, simulate


def test_one_worker_takes_the_sum_of_all_costs() -> None:
    costs = Costs()
    found = simulate(50, 1, 0.0, costs, width=10, seed=1)
    least = 50 * (costs.node + costs.claim + costs.finish)
    assert least < found["seconds"] < least + 50 * costs.way + costs.plan + 1
    assert limit(found, costs, width=10, seed=1) == "workers"


def test_redis_is_the_limit_with_enough_workers() -> None:
    costs = Costs(claim=0.001, finish=0.001)
    found = simulate(3000, 1000, 0.0, costs, width=1000, seed=1)
    assert found["nodes_per_second"] == pytest.approx(1 / (costs.claim + costs.finish), rel=0.05)
    assert limit(found, costs, width=1000, seed=1).startswith("Redis (")


def test_duration_of_a_chain_is_the_sum_of_its_nodes() -> None:
    found = simulate(40, 10, 0.2, Costs(), width=1, seed=3)
    assert found["best"] == 1.0
    assert found["speedup"] <= 1.0
    assert limit(found, Costs(), width=1, seed=3) == "the graph"
