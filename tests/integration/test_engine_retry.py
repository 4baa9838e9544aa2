"""``retry`` repeats failed and skipped nodes of an earlier run, on several engines in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Ran, Shared, drive, spec_for
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse

Copy = Callable[..., Path]


@pytest.fixture
def broken(copy_project: Copy, duckdb_file: Path) -> Iterator[Path]:
    yield copy_project("broken")
    close_warehouse()


@pytest.fixture
def engines() -> list[Engine]:
    shared = Shared()
    return [Engine(shared, worker=f"w:{number}") for number in range(2)]


def failing(*what: str) -> list[str]:
    return ["--vars", json.dumps({"broken": what})]


def build(engines: list[Engine], project: Path, *args: str) -> dict[str, Any]:
    """Run a command; return its run results and delete run_results.json."""
    ran = drive(engines, spec_for(project, *args))
    assert ran.finished.run_results is not None, ran.lines
    (project / "target" / "run_results.json").unlink()
    return ran.finished.run_results


def retry(engines: list[Engine], project: Path, previous: dict[str, Any], *args: str) -> Ran:
    return drive(engines, spec_for(project, "retry", *args), previous=previous)


def nodes(ran: Ran) -> dict[str, str]:
    """Statuses by name, without hooks."""
    return {name: status for name, status in ran.statuses.items() if "-on-run-" not in name}


def test_failed_batches_and_skipped_nodes_are_repeated(broken: Path, engines: list[Engine]) -> None:
    args = ["build", "--select", "numbers", "staging", "batches+", "--full-refresh", "--threads", "2"]
    previous = build(engines, broken, *args, *failing("batch"))
    again = retry(engines, broken, previous, *failing())
    assert again.finished.return_code == 0, again.lines
    assert nodes(again) == {"batches": "success", "after_batches": "success"}
    results = again.finished.run_results
    assert results is not None
    (batches,) = [each["batch_results"] for each in results["results"] if each["batch_results"]]
    # successful batches are kept; only the failed batch ran again
    assert (len(batches["successful"]), batches["failed"]) == (3, [])
    assert sum("Batch" in line and "START" in line for line in again.lines) == 1
    # all arguments of the earlier command are kept, except the vars that were set again
    kept = {name: results["args"][name] for name in ("which", "select", "full_refresh", "threads")}
    assert kept == {
        "which": "build", "select": ["numbers", "staging", "batches+"], "full_refresh": True, "threads": 2,
    }  # fmt: skip
    assert results["args"]["vars"] == {"broken": []}
    assert results["args"]["invocation_command"].startswith("dbt retry")


def test_failed_retry_can_be_retried(broken: Path, engines: list[Engine]) -> None:
    args = ["build", "--select", "numbers", "staging", "solid", "hooked"]
    previous = build(engines, broken, *args, *failing("table", "pre_hook"))
    second = retry(engines, broken, previous, *failing("pre_hook"))
    assert second.finished.return_code == 1
    assert nodes(second)["solid"] == "success"
    assert nodes(second)["hooked"] == "error"
    assert "numbers" not in nodes(second)
    assert second.finished.run_results is not None
    third = retry(engines, broken, second.finished.run_results, *failing())
    assert third.finished.return_code == 0
    assert set(nodes(third)) == {"hooked", "not_null_hooked_number"}


def test_nothing_to_retry_is_a_success(broken: Path, engines: list[Engine]) -> None:
    previous = build(engines, broken, "seed")
    again = retry(engines, broken, previous)
    assert again.finished.return_code == 0
    assert any("Nothing to do" in line for line in again.lines)


def test_commands_without_nodes_use_dbts_retry(broken: Path, engines: list[Engine]) -> None:
    (broken / "macros" / "perhaps.sql").write_text(
        "{% macro perhaps() %}{% do run_query(may_fail('operation', 'select 1')) %}{% endmacro %}"
    )
    failed = engines[0].command(
        spec_for(broken, "run-operation", "perhaps", *failing("operation")), "run-operation", lambda _: None
    )
    previous = failed.run_results
    assert failed.return_code == 1
    assert previous is not None
    (broken / "target" / "run_results.json").unlink()
    spec = spec_for(broken, "retry", *failing())
    plan = engines[1].plan(spec, lambda _: None, previous=previous)
    assert plan.whole
    assert plan.warehouse is not None
    again = engines[1].command(spec, "retry", lambda _: None, previous=previous)
    assert again.return_code == 0
    assert again.run_results is not None
    assert [each["status"] for each in again.run_results["results"]] == ["success"]
    assert again.run_results["args"]["macro"] == "perhaps"


@pytest.mark.filterwarnings("ignore:Exception ignored in. .function Pool.__del__")  # raised by dbt's own pool
def test_warnings_are_retried_only_with_warn_error(broken: Path, engines: list[Engine]) -> None:
    """``--warn-error retry`` changes a module variable of dbt."""
    build(engines, broken, "build", "--select", "numbers", "staging", "solid")
    engine = engines[0]
    spec = spec_for(broken, "test", "--select", "solid_is_small", *failing("test", "test_warns"))
    previous = engine.command(spec, "test", lambda _: None).run_results
    assert previous is not None

    def retried(*args: str) -> list[str]:
        done = engine.command(spec_for(broken, *args), "retry", lambda _: None, previous=previous)
        return [each.unique_id for each in done.results if each.resource_type == "test"]

    assert len(retried("--warn-error", "retry")) == 1
    assert retried("retry") == []
