"""The printed report of a result."""

from __future__ import annotations

import io
from typing import Any

import pytest

from producer.display.report import errors_of, print_result
from workers.contract.errors import ErrorInfo
from workers.contract.results import Attempt, DbtResult, NodeResult

BROKEN = ErrorInfo(
    code="missing_column",
    category="database",
    error_class="DbtExecutionError",
    message='column "amuont" does not exist',
    detail="Database Error in model orders\n  amuont [not a tag]",
    node="model.shop.orders",
    file="models/orders.sql",
    line=7,
    sql_excerpt="> 7 | select amuont\n",
    suggested_fix='Did you mean "amount"?',
    attempts=2,
)


def attempt(number: int) -> Attempt:
    return Attempt(
        step="model.shop.orders", number=number, worker="h:1", started_at=1, finished_at=2, status="error"
    )


def node(name: str, status: str, **fields: Any) -> NodeResult:
    return NodeResult(
        unique_id=f"model.shop.{name}", name=name, resource_type="model", status=status, **fields
    )


def result(*nodes: NodeResult, **fields: Any) -> DbtResult:
    given: dict[str, Any] = {
        "success": True,
        "stdout": "",
        "stderr": "",
        "execution_time": 3.21,
        "return_code": 0,
        "command": ["dbt", "build", "--vars", "{}"],
        "run_id": "20260101T000000-0123456789ab",
        "nodes": nodes,
    }
    return DbtResult(**{**given, **fields})


def printed(what: DbtResult) -> str:
    file = io.StringIO()
    print_result(what, file)
    return file.getvalue()


def test_each_node_has_a_row() -> None:
    text = printed(
        result(
            node("orders", "success", execution_time=1.234, worker="box:11", attempts=(attempt(1),)),
            node("paid_orders", "skipped"),
        )
    )
    rows = [row.split() for row in text.splitlines()]
    assert rows[0] == ["node", "type", "status", "time", "attempts", "worker"]
    assert rows[1] == ["orders", "model", "success", "1.23", "s", "1", "box:11"]
    assert rows[2] == ["paid_orders", "model", "skipped"]
    assert "2 nodes: 1 success, 1 skipped in 3.2 s, exit code 0  (20260101T000000-0123456789ab)" in text


def test_attempts_and_failing_rows_are_counted() -> None:
    text = printed(
        result(
            node("orders", "error", attempts=(attempt(1), attempt(2))), node("unique_id", "fail", failures=4)
        )
    )
    rows = [row.split() for row in text.splitlines()]
    assert rows[1][-1] == "2"
    assert rows[2][2:4] == ["fail", "4"]


def test_error_shows_place_sql_and_fix() -> None:
    text = printed(result(node("orders", "error", error=BROKEN), success=False, return_code=1, error=BROKEN))
    for part in (
        "missing_column in model.shop.orders",
        "models/orders.sql, line 7",
        'column "amuont" does not exist',
        "amuont [not a tag]",
        "> 7 | select amuont",
        "tried 2 times",
        'Fix: Did you mean "amount"?',
        "exit code 1",
    ):
        assert part in text
    assert text.count("missing_column") == 1


def test_failing_rows_and_retryable_errors_are_noted() -> None:
    stale = ErrorInfo(
        code="lock",
        category="lock_contention",
        error_class="DbtLockError",
        message="held",
        failures=1,
        retryable=True,
    )
    text = printed(result(error=stale, success=False, return_code=2))
    assert "1 failing row; may pass when tried again" in text
    assert "dbt build in 3.2 s, exit code 2" in text
    assert "Fix:" not in text


def test_file_without_line_is_shown_and_long_details_are_cut() -> None:
    long = ErrorInfo(
        code="internal",
        category="internal",
        error_class="DbtExecutionError",
        message="no",
        detail="\n".join(f"line {number}" for number in range(30)),
        file="models/x.sql",
    )
    text = printed(result(error=long))
    assert "models/x.sql" in text
    assert "line 11" in text
    assert "line 12" not in text
    assert "… 18 more lines" in text


def test_error_of_the_run_is_shown_only_if_no_node_has_the_same() -> None:
    own = ErrorInfo(code="hook_failed", category="database", error_class="DbtExecutionError", message="hook")
    broken = node("orders", "error", error=BROKEN)
    assert errors_of(result(broken, error=BROKEN)) == [BROKEN]
    assert errors_of(result(broken, error=own)) == [own, BROKEN]
    assert errors_of(result(node("orders", "success"))) == []


def test_no_escape_codes_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    assert "\x1b" not in printed(result(node("orders", "error", error=BROKEN)))


def test_node_without_a_name_is_shown_by_its_id() -> None:
    bare = NodeResult(
        unique_id="test.shop.unique_orders_id.0a1b", name="", resource_type="test", status="pass"
    )
    assert "unique_orders_id.0a1b" in printed(result(bare))


def test_warnings_are_printed_before_the_summary() -> None:
    text = printed(result(warnings=("on-run-end hooks were executed again",)))
    assert text.index("Warning: on-run-end hooks were executed again") < text.index("exit code 0")
