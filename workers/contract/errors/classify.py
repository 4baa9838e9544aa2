"""Classifies a failure: error code, message, place, whether it is retryable, and a suggested fix. No I/O.

The code follows from these facts, in this order: dbt's status of the node; the exception class and its causes (a
driver's class stands for one SQLSTATE); the rules for dbt's texts; the rules for databases' texts, those of the
adapter first; the kind of error in dbt's text.

SQL errors of tests, hooks, seeds and snapshots have codes of their own: ``test_errored`` for a test that could not
run, ``hook_failed``, and so on. Message and suggested fix then describe the cause. Causes outside the SQL
(connection, lock, memory …) keep their code.
"""

from __future__ import annotations

import re
from typing import Final

from workers.contract.credentials import scrub
from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.contract.errors.console_output import first_failure
from workers.contract.errors.diagnosis import Diagnosis
from workers.contract.errors.error_codes import ERROR_CODES
from workers.contract.errors.failure import Failure
from workers.contract.errors.message_parser import (
    PYTHON_FAILED,
    ParsedMessage,
    frame_in_python,
    parse_message,
    raised_in_python,
)
from workers.contract.errors.rules import Rule
from workers.contract.errors.rules.databases import SQL_EXCEPTIONS, sql_rules
from workers.contract.errors.rules.dbt import DBT_EXCEPTIONS, DBT_RULES, GENERAL, UNCOMPILED
from workers.contract.errors.sql_excerpt import excerpt, locate
from workers.contract.errors.suggested_fixes import suggest

__all__ = ["Failure", "classify", "classify_text"]

_LONGEST_MESSAGE: Final = 300

_EVERY_BATCH_FAILED: Final = "ERROR"  # dbt.task.run.MicrobatchModelRunner.merge_batch_results

_NO_MESSAGE: Final = frozenset({"", "Status: error"})  # no text, or what dbt prints instead

_CODE_OF_RESOURCE_TYPE: Final = {
    "test": "test_errored",
    "unit_test": "test_errored",
    "data_test": "test_errored",
    "seed": "seed_error",
    "snapshot": "snapshot_error",
}

_FACTS_IN_SQL: Final = ("column", "relation", "function", "table", "schema")

_NODE_AND_PATH: Final = re.compile(r"^\w[\w ]*? '(?P<node>\w+\.[\w.]+)' \((?P<path>[^)]+)\) ")
_JINJA_LINE: Final = re.compile(r"^[ \t]*line (?P<line>\d+)$", re.MULTILINE)
_CSV_LINE: Final = re.compile(r"CSV Error on Line: (?P<line>\d+)")
_PYTHON_LINE: Final = re.compile(r"\(\S+\.py, line (?P<line>\d+)\)|on line (?P<other>\d+):")
_DATABASE_PREFIX: Final = re.compile(r"^[A-Z][A-Za-z]*(?: [A-Za-z]+)* Error: ")


def classify(failure: Failure) -> ErrorInfo:
    """Classify one failure. Accepts any text; what is unknown stays empty."""
    parsed = parse_message(failure.message)
    cause, facts = _cause(failure, parsed)
    code = _code_for_node(cause, failure, parsed)
    of_node = _NODE_AND_PATH.match(parsed.core)
    node = failure.node or (of_node["node"] if of_node else None)
    file, line = _file(failure, parsed, facts), _line_in_file(failure, parsed, cause, facts)
    shown = None
    if line is None:
        line, shown = _line_in_sql(failure, parsed, cause, facts)
    diagnosis = Diagnosis(
        failure=failure,
        parsed=parsed,
        code=code,
        cause=cause,
        facts=facts,
        file=file,
        line=line,
        in_sql=shown is not None,
        node=node,
    )
    kind = ERROR_CODES[code]
    return ErrorInfo(
        code=code,
        category=kind.category.value,
        error_class=CLASS_OF_CATEGORY[kind.category].__name__,
        message=_message(diagnosis),
        detail=scrub(parsed.text, failure.secrets),
        node=node,
        file=file,
        line=line,
        sql_excerpt=shown,
        failures=failure.failures,
        retryable=kind.retryable,
        suggested_fix=scrub(suggest(diagnosis), failure.secrets),
    )


def classify_text(
    stdout: str, stderr: str, return_code: int | None, *, adapter: str = "", secrets: tuple[str, ...] = ()
) -> ErrorInfo:
    """Classify the first failure in the console output of a dbt command.

    Args:
        stdout: what the command wrote on stdout.
        stderr: what it wrote on stderr.
        return_code: dbt's exit code (1: a node failed, 2: the command failed), or that of a shell or of
            `subprocess` when the process was killed or never started; None where unknown.
        adapter: dbt's name of the adapter; empty where unknown.
        secrets: values to mask in the error.

    Returns:
        The classified error. Where no failure was printed, it follows from the exit code or the last line.
    """
    printed = first_failure(stdout, stderr)
    if printed is not None:
        return classify(
            Failure(
                message=printed.message, status=printed.status, adapter=adapter,
                resource_type=printed.resource, file=printed.path or None, failures=printed.failures,
                secrets=secrets,
            )
        )  # fmt: skip
    lines = (stderr.strip() or stdout.strip()).splitlines()
    message = lines[-1].strip() if lines else ""
    exceptions = () if return_code is None else _EXCEPTION_OF_EXIT_CODE.get(return_code, ())
    if exceptions:
        return classify(Failure(message=message, exceptions=exceptions, adapter=adapter, secrets=secrets))
    ended = "dbt ended" if return_code is None else f"dbt ended with exit code {return_code}"
    return classify(
        Failure(
            message=f"{ended}: {message}" if message else f"{ended} and printed nothing",
            adapter=adapter,
            secrets=secrets,
        )
    )


_EXCEPTION_OF_EXIT_CODE: Final[dict[int, tuple[str, ...]]] = {
    127: ("CommandNotFound",),
    130: ("KeyboardInterrupt",),
    -2: ("KeyboardInterrupt",),
    143: ("DbtCancelledError",),  # SIGTERM
    -15: ("DbtCancelledError",),
    137: ("ProcessKilled",),
    -9: ("ProcessKilled",),
}
"""Exit code (a shell's or, if negative, `subprocess`'s) → exception, for commands that printed no failure."""


def _cause(failure: Failure, parsed: ParsedMessage) -> tuple[str, dict[str, str]]:
    """Return the error code of the cause, whatever the kind of node, and the facts in the text."""
    by_status = _code_by_status(failure, parsed)
    if by_status:
        none = {"done": "none", "total": "its"} if parsed.core == _EVERY_BATCH_FAILED else {}
        return by_status, {**_facts(by_status, parsed.core, DBT_RULES, parsed.reason), **none}
    if PYTHON_FAILED in parsed.core:
        return _python_cause(failure, parsed)
    compiled = parsed.kind not in UNCOMPILED
    known = (*DBT_RULES, *sql_rules(failure.adapter)) if compiled else DBT_RULES
    if parsed.kind == "Database":
        known = sql_rules(failure.adapter)
    code = (
        _code_by_exception(failure.exceptions, parsed.core, known, databases=compiled)
        or _code_by_text(parsed.core, known)
        or _general_code(failure.exceptions, parsed)
    )
    return code, _facts(code, parsed.core, known, parsed.reason)


def _code_by_status(failure: Failure, parsed: ParsedMessage) -> str:
    status = failure.status.lower()
    if status == "partial success" or (status == "error" and parsed.core == _EVERY_BATCH_FAILED):
        return "batches_failed"
    if failure.resource_type == "source":
        return "source_stale" if status in {"error", "warn"} and parsed.core in _NO_MESSAGE else ""
    if status in {"fail", "warn"}:
        return "unit_test_failed" if failure.resource_type == "unit_test" else "test_failed"
    return "cancelled" if status == "cancelled" else ""


def _python_cause(failure: Failure, parsed: ParsedMessage) -> tuple[str, dict[str, str]]:
    raised, by_duckdb = raised_in_python(parsed.core)
    exception, _, words = raised.partition(": ")
    facts = {"exception": exception, "raised": words.strip().split("\n")[0], "reason": raised.split("\n")[0]}
    if by_duckdb:
        known = sql_rules(failure.adapter)
        code = _code_by_text(raised, known)
        if code:
            return code, {**facts, **_facts(code, raised, known, facts["reason"])}
    if exception == "MemoryError":
        return "out_of_memory", facts
    missing = re.fullmatch(r"No module named '(?P<name>[^']+)'", words.strip())
    if missing is not None:
        return "python_missing_package", {**facts, "name": missing["name"].partition(".")[0]}
    return "python_model_error", facts


def _code_by_exception(names: tuple[str, ...], text: str, known: tuple[Rule, ...], *, databases: bool) -> str:
    for name in names:
        codes = DBT_EXCEPTIONS.get(name) or (SQL_EXCEPTIONS.get(name) if databases else None)
        if codes is None:
            continue
        if len(codes) == 1:
            return codes[0]
        found = [rule.code for rule in known if rule.code in codes and rule.search(text)]
        return found[0] if found else codes[-1]
    return ""


def _code_by_text(text: str, known: tuple[Rule, ...]) -> str:
    return next((rule.code for rule in known if rule.search(text)), "")


def _general_code(names: tuple[str, ...], parsed: ParsedMessage) -> str:
    for exception, kind, code in GENERAL:
        if kind == parsed.kind or exception in names:
            return code
    if _DATABASE_PREFIX.match(parsed.core) or "DatabaseError" in names or parsed.hook:
        return "database_error"
    return "internal"


def _facts(code: str, text: str, known: tuple[Rule, ...], reason: str) -> dict[str, str]:
    """Return the groups of the first rule of `code` that matches `text`."""
    facts = {"reason": reason} if reason else {}
    for rule in known:
        found = rule.search(text) if rule.code == code else None
        if found is not None:
            groups = {name: value.strip() for name, value in found.groupdict().items() if value}
            return {**facts, **groups}
    return facts


def _code_for_node(cause: str, failure: Failure, parsed: ParsedMessage) -> str:
    """Return the error code for this kind of node, given the code of the cause."""
    if cause == "batches_failed":
        return cause
    sql = ERROR_CODES[cause].category is Category.DATABASE
    resource = failure.resource_type or parsed.resource
    if parsed.hook or (resource == "operation" and "-on-run-" in (failure.node or "")):
        return "hook_failed" if sql or cause in {"compilation_error", "internal"} else cause
    if resource in {"seed", "snapshot"} and (sql or cause == "compilation_error"):
        return _CODE_OF_RESOURCE_TYPE[resource]
    if sql and (PYTHON_FAILED in parsed.core or failure.language == "python"):
        return "python_model_error"
    return _CODE_OF_RESOURCE_TYPE.get(resource, cause) if sql else cause


def _message(diagnosis: Diagnosis) -> str:
    """Return one sentence: node and cause."""
    try:
        what = ERROR_CODES[diagnosis.cause].template.format_map(diagnosis.facts)
    except KeyError:
        what = (
            diagnosis.parsed.reason
            or ERROR_CODES[diagnosis.cause].template.partition("{")[0].strip()
            or diagnosis.cause
        )
    if diagnosis.cause in {"test_failed", "unit_test_failed"} and diagnosis.failure.status.lower() == "warn":
        what = f"{what} (a warning)"
    message = f"{diagnosis.where}: {what}" if diagnosis.where else what
    message = scrub(message, diagnosis.failure.secrets)  # before the cut: part of a secret would not be found
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def _file(failure: Failure, parsed: ParsedMessage, facts: dict[str, str]) -> str | None:
    if parsed.hook:
        return "dbt_project.yml"
    of_node = _NODE_AND_PATH.match(parsed.core)
    in_text = "/".join(part for part in (facts.get("folder"), facts.get("file")) if part)
    path = failure.file or in_text or parsed.path or (of_node["path"] if of_node else "")
    if path.endswith("dbt_project.yml"):
        return "dbt_project.yml"  # dbt's text has the absolute path
    return path.removeprefix("./") or None


def _line_in_file(failure: Failure, parsed: ParsedMessage, cause: str, facts: dict[str, str]) -> int | None:
    if PYTHON_FAILED in parsed.core:
        frame = frame_in_python(parsed.core, failure.raw_code or "")
        return frame.line if frame is not None else None
    if cause == "yaml_syntax":
        return int(facts["line"]) if "line" in facts else None
    if cause == "seed_error" and "row" in facts:
        return int(facts["row"]) + 2  # agate counts rows from 0, after the header
    pattern = {"jinja_syntax": _JINJA_LINE, "python_syntax": _PYTHON_LINE}.get(cause, _CSV_LINE)
    found = pattern.search(parsed.text)
    return int(next(group for group in found.groups() if group)) if found is not None else None


def _line_in_sql(
    failure: Failure, parsed: ParsedMessage, cause: str, facts: dict[str, str]
) -> tuple[int | None, str | None]:
    """Return the line of the compiled SQL and an excerpt around it, for SQL errors."""
    sql = failure.compiled_code
    if not sql or failure.language != "sql" or ERROR_CODES[cause].category is not Category.DATABASE:
        return None, None
    word = next((facts[name] for name in _FACTS_IN_SQL if name in facts), "")
    line, column = locate(sql, parsed.place, word.rpartition(".")[2].strip('"'))
    if line is None:
        return None, None
    return line, excerpt(sql, line, column)
