"""Time limits and cancellation in the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.projects import copy_project
from workers.contract.events import Event
from workers.engine.engine import Engine
from workers.engine.interface import OnEvent, OwnLimits, StepOutcome
from workers.engine.warehouse.concurrency import close_warehouse

TOO_LONG = "its soft time limit of 5 s has passed: it ran for 5.2 s"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_warehouse()


@pytest.fixture
def broken(tmp_path: Path, duckdb_file: Path) -> Path:
    return copy_project("broken", tmp_path / "broken")


@pytest.fixture
def small(tmp_path: Path, duckdb_file: Path) -> Path:
    return copy_project("small", tmp_path / "small")


class HookedEngine(Engine):
    """An engine that changes the arguments of nodes, or acts on their events."""

    def __init__(self) -> None:
        super().__init__(Shared())

    def changed_arguments(self) -> dict[str, Any]:
        return {}

    def on_event(self, event: Event) -> None:
        return None

    def node(
        self, spec: Any, facts: Any, unique_id: str, index: int, emit: OnEvent, **more: Any
    ) -> StepOutcome:
        def emit_and_call(event: Event) -> None:
            emit(event)
            self.on_event(event)

        return super().node(
            spec, facts, unique_id, index, emit_and_call, **{**more, **self.changed_arguments()}
        )


def run(engine: Engine, project: Path, *args: str, broken: tuple[str, ...] = ()) -> Ran:
    given = ("--vars", json.dumps({"broken": broken})) if project.name == "broken" else ()
    return drive(engine, spec_for(project, *args, *given))


def limited(project: Path, limits: str) -> None:
    """Add a model with these time limits."""
    sql = "{{ config(meta={'dbt_relay': " + limits + "}) }} select 1 as one"
    (project / "models" / "limited.sql").write_text(sql)


def test_plan_contains_the_limits_of_nodes(small: Path) -> None:
    limited(small, "{'time_limit': 90, 'soft_time_limit': 60}")
    engine = Engine(Shared())
    plan = engine.plan(spec_for(small, "build", "--fail-fast"), lambda _: None)
    assert plan.facts.limits == {"model.small.limited": OwnLimits(soft_time_limit=60, time_limit=90)}
    assert plan.facts.fail_fast


def test_invalid_limits_are_a_usage_error(small: Path) -> None:
    limited(small, "{'time_limit': 'soon'}")
    ran = run(Engine(Shared()), small, "run")
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert "model.small.limited (models" in ran.finished.error.message
    assert any("soft_time_limit: 540, time_limit: 600" in line for line in ran.lines)


def test_node_that_exceeds_its_limit_fails_with_that_error(broken: Path) -> None:
    class Late(HookedEngine):
        def changed_arguments(self) -> dict[str, Any]:
            return {"time_limit_message": lambda: TOO_LONG}

    ran = run(Late(), broken, "build", "--select", "batches", "last", broken=("last",))
    assert ran.statuses["last"] == "error"
    result = ran.outcomes["model.broken.last"].result
    assert result.message is not None
    assert result.message.startswith("Runtime Error in model last (models")
    assert result.message.endswith(TOO_LONG)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("time_limit", False)
    assert any(TOO_LONG in line for line in ran.lines)


def test_cancelling_a_batch_starts_no_further_batch(broken: Path) -> None:
    class Cancelled(HookedEngine):
        def on_event(self, event: Event) -> None:
            if " START batch " in event.text:
                self.cancel()

    ran = run(Cancelled(), broken, "build", "--select", "+batches")
    assert ran.statuses["batches"] == "partial success"
    batches = ran.outcomes["model.broken.batches"].result.result["batch_results"]
    assert len(batches["successful"]) == 1
    assert len(batches["failed"]) >= 2
    assert sum(" START batch " in line for line in ran.lines) == 1


def test_python_model_runs_as_the_first_node_of_a_process(small: Path) -> None:
    (small / "models" / "first.py").write_text(
        "def model(dbt, session):\n    return session.sql('select 1 as one')\n"
    )

    class Released(HookedEngine):
        def changed_arguments(self) -> dict[str, Any]:
            self.release()
            return {}

    assert run(Released(), small, "run", "--select", "first").statuses["first"] == "success"
