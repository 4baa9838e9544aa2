"""Suggested fixes for tests, contracts, freshness, seeds, snapshots, hooks and Python models."""

from __future__ import annotations

import re
from typing import Final

from workers.contract.errors.diagnosis import Diagnosis, Fix
from workers.contract.errors.suggested_fixes.similar_names import listed, nearest

_MISMATCH: Final = re.compile(
    r"^[ \t]*\|\s*(?P<column>\S+)\s*\|\s*(?P<definition>[^|]*?)\s*\|\s*(?P<contract>[^|]*?)\s*\|\s*"
    r"(?P<reason>missing in contract|missing in definition|data type mismatch)\s*\|",
    re.MULTILINE,
)
_NULL: Final = re.compile(
    r"NOT NULL constraint failed: (?:\w+\.)?(?P<duckdb>\w+)|null value in column \"(?P<postgres>[^\"]+)\""
)
_DUPLICATE: Final = re.compile(
    r"duplicate key \"(?P<duckdb>[^\"]*)\"|Key \((?P<columns>[^)]*)\)=\((?P<values>.*?)\) already"
)
_CHECK: Final = re.compile(
    r"with expression CHECK\(\(?(?P<rule>.*?)\)?\)$|check constraint \"(?P<name>[^\"]+)\"", re.MULTILINE
)
_FOREIGN: Final = re.compile(
    r"because key \"(?P<duckdb>[^\"]*)\"|Key \((?P<columns>[^)]*)\)=\((?P<values>.*?)\) is not present"
)
_NEW_COLUMNS: Final = re.compile(r"Source columns not in target: \[(?P<columns>.*)\]")
_OLD_COLUMNS: Final = re.compile(r"Target columns not in source: \[(?P<columns>.*)\]")
_COLUMN_NAME: Final = re.compile(r"column='([^']+)'|<Column (\w+) ")


def _test_failed(diagnosis: Diagnosis) -> str:
    count = diagnosis.failure.failures
    rows = "the failing rows" if count is None else f"the {count} failing row{'s' if count != 1 else ''}"
    return (
        f"`dbt-relay show --select {diagnosis.select}` shows {rows}; correct the data at their source, or the "
        f"test in {diagnosis.place}."
    )


def _unit_test_failed(diagnosis: Diagnosis) -> str:
    return (
        f"Compare actual and expected rows in the detail; correct the model's SQL, or the expected rows in "
        f"{diagnosis.place}, then run `dbt-relay test --select {diagnosis.select}`."
    )


def _contract_violation(diagnosis: Diagnosis) -> str:
    todo = []
    for row in _MISMATCH.finditer(diagnosis.parsed.text):
        column, is_now, agreed = row["column"], row["definition"], row["contract"]
        if row["reason"] == "data type mismatch":
            todo.append(f"cast {column} to {agreed} (it is {is_now})")
        elif row["reason"] == "missing in definition":
            todo.append(f"select {column} ({agreed})")
        else:
            todo.append(f"leave {column} out, or add it to the contract as {is_now}")
    if not todo:
        return f"List every column with its data_type under columns: in the YAML of {diagnosis.where or diagnosis.place}."
    steps = "; ".join(todo)
    return f"In {diagnosis.place}: {steps}."


def _constraint_violation(diagnosis: Diagnosis) -> str:
    text = diagnosis.parsed.text
    null, duplicate, check, foreign = (p.search(text) for p in (_NULL, _DUPLICATE, _CHECK, _FOREIGN))
    if null is not None:
        return f"Filter or fill the rows where {null['duckdb'] or null['postgres']} is null, in {diagnosis.place}."
    if foreign is not None:
        key = foreign["duckdb"] or f"{foreign['columns']}={foreign['values']}"
        return f"Key {key} is not in the parent table: build the parent first, or filter such rows in {diagnosis.place}."
    if duplicate is not None:
        key = duplicate["duckdb"] or f"{duplicate['columns']}={duplicate['values']}"
        return f"Key {key} occurs more than once: make the rows unique in {diagnosis.place}."
    if check is not None:
        rule = check["rule"] or f"constraint {check['name']}"
        return f"Filter or correct the rows that break {rule}, in {diagnosis.place}."
    return f"Filter or correct the rows that break the constraint, in {diagnosis.place}."


def _schema_change(diagnosis: Diagnosis) -> str:
    text = diagnosis.parsed.text
    changes = []
    for pattern, word in ((_NEW_COLUMNS, "new"), (_OLD_COLUMNS, "gone")):
        found = pattern.search(text)
        names = (
            [one or two for one, two in _COLUMN_NAME.findall(found["columns"])] if found is not None else []
        )
        if names:
            changes.append(f"{word}: {', '.join(names)}")
    about = f" ({'; '.join(changes)})" if changes else ""
    return (
        f"Rebuild it with its changed columns{about}: `dbt-relay run --full-refresh --select {diagnosis.select}`, or set "
        "on_schema_change to append_new_columns or sync_all_columns."
    )


def _source_stale(diagnosis: Diagnosis) -> str:
    return (
        f"Load new data into {diagnosis.name}, then run `dbt-relay source freshness --select {diagnosis.select}`; or "
        f"allow more time under freshness: in {diagnosis.place}."
    )


def _snapshot_error(diagnosis: Diagnosis) -> str:
    place = diagnosis.file or "the snapshot's configuration"
    if diagnosis.fact("missing"):
        return (
            f"The table that {diagnosis.name or 'the snapshot'} writes to was not created by a snapshot (it has no "
            f"{diagnosis.named('missing')}): drop or rename it, or give the snapshot another alias or schema."
        )
    if diagnosis.fact("strategy"):
        likely = nearest(diagnosis.fact("strategy"), ("timestamp", "check"))
        return f"Use strategy '{likely[0] if likely else 'timestamp'}' (timestamp or check) in {place}."
    if "updated_at" in diagnosis.parsed.core:
        return f"Set updated_at (the column with the time of a row's last change) in {place}, or use strategy check."
    return f"Correct {place}."


def seed_error(diagnosis: Diagnosis) -> str:
    """Return the suggested fix for an invalid CSV file of a seed."""
    column = diagnosis.fact("column")
    if diagnosis.fact("value"):
        return (
            f"Correct '{diagnosis.named('value')}'{' in column ' + column if column else ''} of {diagnosis.place}, or give the "
            "column another type under +column_types."
        )
    if diagnosis.fact("row"):
        return f"Correct {diagnosis.file or 'the CSV file'}, line {diagnosis.line}: its number of values differs from the header's."
    return f"Correct {diagnosis.file or 'the CSV file'}: a header in the first line, the same number of values in each other line."


def _test_errored(diagnosis: Diagnosis) -> str:
    column = diagnosis.fact("column")
    if not column:
        return f"Correct the test in {diagnosis.place}."
    there = listed(diagnosis.fact("candidates"))
    likely = nearest(column, there)
    hint = f"Did you mean '{likely[0]}'? " if likely else ""
    return f"{hint}Correct '{column}' in the given rows in {diagnosis.place}: {diagnosis.named('table')} has {', '.join(there)}."


def _python_model_error(diagnosis: Diagnosis) -> str:
    line = f" at line {diagnosis.line}" if diagnosis.line is not None else ""
    return f"Correct {diagnosis.file or diagnosis.where or 'the model'}{line}; the detail has the traceback."


def _batches_failed(diagnosis: Diagnosis) -> str:
    return (
        f"Run `dbt-relay retry`: it runs only the batches that failed. Their errors are in the lines of "
        f"{diagnosis.name or 'the model'}."
    )


DATA_FIXES: Final[dict[str, Fix]] = {
    "test_failed": _test_failed,
    "unit_test_failed": _unit_test_failed,
    "test_errored": _test_errored,
    "contract_violation": _contract_violation,
    "contract_breaking_change": "Undo the change, or make a new version of the model and deprecate this one.",
    "constraint_violation": _constraint_violation,
    "schema_change": _schema_change,
    "source_stale": _source_stale,
    "snapshot_error": _snapshot_error,
    "seed_error": seed_error,
    "hook_failed": lambda d: f"Correct {d.where or 'the hook'} in dbt_project.yml.",
    "batches_failed": _batches_failed,
    "python_model_error": _python_model_error,
    "python_missing_package": lambda d: (
        f"Install it where every worker runs: `pip install {d.named('name')}`, or take the import out of {d.file or 'the model'}."
    ),

}  # fmt: skip
