"""Computations of the benchmarks: percentiles, the stub engine's graph, table comparison, the scaling model."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from benchmarks import scale
from benchmarks.calibration import WIDTH, costs_from, parents_of
from benchmarks.sides import differences
from benchmarks.streaming import in_order, percentile
from benchmarks.stub_engine import StubEngine, environment
from workers.contract.events import LINE, Event
from workers.contract.results import Attempt, DbtResult, NodeResult
from workers.engine.interface import RunSpec


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([1.0], 0.99, 1.0), ([3.0, 1.0, 2.0], 0.5, 2.0), (list(range(1, 101)), 0.99, 99), ([1, 2, 3, 4], 1, 4)],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_order_of_lines_is_checked_for_each_node() -> None:
    def line(node: str, at: float) -> tuple[float, Event]:
        return 9.0, Event(kind=LINE, run_id="r", node=node, at=at)

    assert in_order([line("a", 1.0), line("b", 0.5), line("a", 1.0), line("b", 2.0)])
    assert not in_order([line("a", 1.0), line("b", 0.5), line("a", 0.9)])


def tables(path: Path, rows: str, log: str) -> Path:
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"create table facts as select * from (values {rows}) as t (id, name)")
        connection.execute(f"create table log as select '{log}' as invocation_id, 1 as results")
        connection.execute("create view seen as select * from facts")
    return path


def test_tables_are_compared_without_order_and_invocation_id(tmp_path: Path) -> None:
    one = tables(tmp_path / "one.duckdb", "(1, 'a'), (2, null)", "x")
    other = tables(tmp_path / "other.duckdb", "(2, null), (1, 'a')", "y")
    assert differences(one, other) == []


def test_additional_rows_and_tables_are_differences(tmp_path: Path) -> None:
    one = tables(tmp_path / "one.duckdb", "(1, 'a')", "x")
    other = tables(tmp_path / "other.duckdb", "(1, 'a'), (1, 'a')", "y")
    with duckdb.connect(str(other)) as connection:
        connection.execute("create table more as select 1 as x")
    found = differences(one, other)
    assert found == ['"main"."more" is on one side only', '"main"."facts": 1 rows are on one side only']


def test_stub_engine_plans_the_graph_of_the_environment() -> None:
    events: list[Event] = []
    engine = StubEngine(None, "w")
    graph = environment(5, width=2, threads=7, lines=3)
    spec = RunSpec(
        run_id="r", args=("run",), cwd="/", project_dir="/", env=graph, invocation_id="i", started_at=0.0
    )
    plan = engine.plan(spec, events.append)
    assert (plan.threads, plan.warehouse) == (7, None)
    parents = {node.name: [above[-2:] for above in node.parents] for node in plan.nodes}
    assert parents == {"n0": [], "n1": [], "n2": ["n0", "n1"], "n3": ["n0", "n1"], "n4": ["n2", "n3"]}
    done = engine.node(spec, plan.facts, plan.nodes[0].unique_id, 1, events.append)
    assert (done.result.status, len(events), {event.node for event in events}) == (
        "success",
        3,
        {"model.bench.n0"},
    )
    finished = engine.close(spec, plan.facts, None, [done.result], events.append)
    assert finished.run_results is not None
    assert [each["unique_id"] for each in finished.run_results["results"]] == ["model.bench.n0"]


def result(nodes: int, plan: float, node: float, close: float) -> DbtResult:
    def attempt(step: str, took: float) -> Attempt:
        return Attempt(
            step=step, number=1, worker="w", started_at=5.0, finished_at=5.0 + took, status="success"
        )

    done = [
        NodeResult(unique_id=f"model.m_{each}", name=f"m_{each}", resource_type="model", status="success",
                   started_at=7.0, finished_at=7.0 + node)
        for each in range(nodes)
    ]  # fmt: skip
    return DbtResult(
        success=True, stdout="", stderr="", execution_time=1.0, return_code=0, command=[], run_id="r",
        nodes=tuple(done), error=None, run_results=None,
        attempts=(attempt("@plan", plan), attempt("@close", close)),
    )  # fmt: skip


def test_costs_are_computed_from_measurements() -> None:
    found = {(50, 1): [result(50, 0.06, 0.04, 0.02)], (200, 1): [result(200, 0.09, 0.05, 0.1)]}
    carrier = {"server": 0.002, "parent": 0.004, "child": 0.003, "hop": 0.02}
    costs = costs_from(carrier, found, 50, 200, rounds=1)
    assert costs.plan_node == pytest.approx(0.0002)
    assert costs.plan == pytest.approx(0.05)
    assert costs.claim + costs.finish == pytest.approx(0.002)
    assert (costs.parent, costs.node, costs.way) == pytest.approx((0.004, 0.043, 0.011))
    assert costs.close_node == pytest.approx(0.0005)


def test_generated_project_has_the_graph_of_the_model() -> None:
    parents = parents_of(35)
    assert [len(each) for each in parents[:WIDTH]] == [0] * WIDTH
    assert all(parent < number for number, above in enumerate(parents) for parent in above)
    children = scale.children_of(35, WIDTH)
    assert sum(map(len, parents)) == sum(map(len, children))


def test_main_process_limits_empty_nodes() -> None:
    costs = scale.Costs(parent=0.02, node=0.001)
    found = scale.simulate(400, scale.POOL, 0.0, costs, width=100, seed=1)
    assert found["nodes_per_second"] == pytest.approx(50, rel=0.05)
    assert "main processes" in scale.limit(found, costs, width=100, seed=1)
    twice = scale.simulate(400, 2 * scale.POOL, 0.0, costs, width=100, seed=1)
    assert twice["nodes_per_second"] == pytest.approx(100, rel=0.1)


def test_costs_are_read_from_results() -> None:
    results = {
        "outcomes": [{"name": "carrier", "data": {}}, {"name": "scale", "data": {"costs": {"way": 0.5}}}]
    }
    assert scale.costs_of(json.dumps(results)).way == 0.5
    with pytest.raises(SystemExit, match="python -m benchmarks scale"):
        scale.costs_of(json.dumps({"outcomes": []}))
