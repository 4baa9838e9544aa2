"""The conformance run's record of outcomes, rebuilt dbt objects, and table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dbt.exceptions import ParsingError
from dbt_common.exceptions import CompilationError, DbtDatabaseError, DbtRuntimeError

from tests.conformance import rebuilt
from tests.conformance.record import Outcome, different, read, table
from workers.contract.errors import ErrorInfo


def outcome(**changes: Any) -> Outcome:
    plain: Any = {
        "adapter": "duckdb", "side": "plain", "name": "a__b__C", "test": "test_d", "outcome": "passed",
        "seconds": 1.0, "reason": "", **changes,
    }  # fmt: skip
    return plain  # type: ignore[no-any-return]


def test_last_outcome_of_a_test_counts(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    assert read(path) == []
    first, last = outcome(side="relay", outcome="failed"), outcome(side="relay")
    path.write_text("".join(json.dumps(each) + "\n" for each in (first, outcome(), last)))
    assert read(path) == [last, outcome()]


def test_table_counts_both_sides_and_lists_differences() -> None:
    outcomes = [outcome(), outcome(side="relay", outcome="failed", reason="it differs")]
    assert different(outcomes) == outcomes[1:]
    lines = list(table(outcomes, {}))
    assert "| duckdb | plain | 1 | 1 | 0 | 0 | 0 |" in lines
    assert "| duckdb | relay | 1 | 0 | 1 | 0 | 0 |" in lines
    assert lines[-1] == "- duckdb a.b.C::test_d: it differs"
    assert list(table(outcomes, {"a__b__C": "known"}))[-1].endswith(": known")


@pytest.mark.parametrize(
    ("text", "category", "kind"),
    [
        ("Parsing Error\n  x", "parsing", ParsingError),
        ("Compilation Error in model x", "compilation", CompilationError),
        ("Database Error\n  x", "database", DbtDatabaseError),
        ("x", "compilation", CompilationError),
        ("x", "selection", DbtRuntimeError),
    ],
)
def test_errors_have_dbts_classes_and_texts(text: str, category: str, kind: type[Exception]) -> None:
    info = ErrorInfo(code="x", category=category, error_class="DbtError", message="short", detail=text)
    error = rebuilt.exception(info)
    assert isinstance(error, kind)
    assert str(error) == text


def test_printed_table_is_parsed() -> None:
    printed = "09:00:00  Previewing\n| id | name |\n| -- | ---- |\n|  1 | a    |\n|  2 | b    |\n"
    found: Any = rebuilt.printed_table(printed)
    assert [tuple(row) for row in found.rows] == [(1, "a"), (2, "b")]
    assert rebuilt.printed_table("no table") is None


def test_event_is_rebuilt_from_its_json_line() -> None:
    line = {"info": {"name": "SQLQuery", "level": "debug"}, "data": {"sql": "select 1"}}
    found: Any = rebuilt.event(line)
    assert (found.info.name, found.data.sql) == ("SQLQuery", "select 1")
    with pytest.raises(KeyError):
        rebuilt.event({"info": {"name": "NoSuchEvent"}})
