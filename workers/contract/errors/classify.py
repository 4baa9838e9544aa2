"""What failed → a classified error: what broke, where, whether trying again can help, what to do.

Pure: facts in, `ErrorInfo` out. What counts, in this order: dbt's status of the node; the exception
class and its causes (a driver's class stands for one exact SQLSTATE); dbt's wordings; the database's
wordings, those of the adapter first; dbt's word for the kind of error.

A node that is more than SQL keeps its own code for trouble with its SQL: a test that could not run
is ``test_errored``, a hook ``hook_failed``, and so on. The message and the suggested fix are about
the cause all the same, and a cause from outside (connection, lock, memory …) keeps its code.
"""

from __future__ import annotations

import re
from typing import Final

from workers.contract.credentials import scrub
from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.contract.errors.codes import KINDS
from workers.contract.errors.console import first_failure
from workers.contract.errors.database_errors import SQL_EXCEPTIONS, sql_rules
from workers.contract.errors.dbt_errors import DBT_EXCEPTIONS, DBT_RULES, GENERAL, UNCOMPILED, Rule
from workers.contract.errors.dbt_text import (
    PYTHON_FAILED,
    Failure,
    Reading,
    frame_in_python,
    raised_in_python,
    read,
)
from workers.contract.errors.finding import Finding
from workers.contract.errors.fixes import suggest
from workers.contract.errors.sql_excerpt import excerpt, locate

__all__ = ["Failure", "classify", "classify_text"]

_LONGEST_MESSAGE: Final = 300

_EVERY_BATCH_FAILED: Final = "ERROR"  # dbt.task.run.MicrobatchModelRunner.merge_batch_results

_STALE: Final = frozenset({"", "Status: error"})  # no text, and what dbt prints in its stead

_OWN_CODE: Final = {
    "test": "test_errored",
    "unit_test": "test_errored",
    "data_test": "test_errored",
    "seed": "seed_error",
    "snapshot": "snapshot_error",
}

_NAMING: Final = ("column", "relation", "function", "table", "schema")

_PATH_OF_NODE: Final = re.compile(r"^\w[\w ]*? '(?P<node>\w+\.[\w.]+)' \((?P<path>[^)]+)\) ")
_JINJA_LINE: Final = re.compile(r"^\s*line (?P<line>\d+)$", re.MULTILINE)
_CSV_LINE: Final = re.compile(r"CSV Error on Line: (?P<line>\d+)")
_PYTHON_LINE: Final = re.compile(r"\(\S+\.py, line (?P<line>\d+)\)|on line (?P<other>\d+):")
_DATABASE_SAYS: Final = re.compile(r"^[A-Z][A-Za-z]*(?: [A-Za-z]+)* Error: ")


def classify(failure: Failure) -> ErrorInfo:
    """The classified error of one failure. Never raises on odd text: what is not known stays empty."""
    reading = read(failure.message)
    cause, facts = _cause(failure, reading)
    code = _in_its_place(cause, failure, reading)
    of_node = _PATH_OF_NODE.match(reading.core)
    node = failure.node or (of_node["node"] if of_node else None)
    file, line = _file(failure, reading, facts), _line_in_file(failure, reading, cause, facts)
    shown = None
    if line is None:
        line, shown = _line_in_sql(failure, reading, cause, facts)
    finding = Finding(
        failure=failure,
        reading=reading,
        code=code,
        cause=cause,
        facts=facts,
        file=file,
        line=line,
        in_sql=shown is not None,
        node=node,
    )
    kind = KINDS[code]
    return ErrorInfo(
        code=code,
        category=kind.category.value,
        error_class=CLASS_OF_CATEGORY[kind.category].__name__,
        message=_message(finding),
        detail=scrub(reading.text, failure.secrets),
        node=node,
        file=file,
        line=line,
        sql_excerpt=shown,
        failures=failure.failures,
        retryable=kind.retryable,
        suggested_fix=scrub(suggest(finding), failure.secrets),
    )


def classify_text(
    stdout: str, stderr: str, return_code: int | None, *, adapter: str = "", secrets: tuple[str, ...] = ()
) -> ErrorInfo:
    """The classified error of a failed dbt command, from its console text alone: the first one it shows.

    Args:
        return_code: dbt's exit code (1 a node failed, 2 dbt could not do it), or a shell's or
            `subprocess`'s when the process was killed or never started; None where it is not known.
        adapter: dbt's name of it, where it is known.
        secrets: values that the error must not show.
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
    said = (stderr.strip() or stdout.strip()).splitlines()
    message = said[-1].strip() if said else ""
    exceptions = () if return_code is None else _SAID_BY_EXIT_CODE.get(return_code, ())
    if exceptions:
        return classify(Failure(message=message, exceptions=exceptions, adapter=adapter, secrets=secrets))
    ended = "dbt ended" if return_code is None else f"dbt ended with exit code {return_code}"
    return classify(
        Failure(
            message=f"{ended}: {message}" if message else f"{ended} and said nothing",
            adapter=adapter,
            secrets=secrets,
        )
    )


_SAID_BY_EXIT_CODE: Final[dict[int, tuple[str, ...]]] = {
    127: ("CommandNotFound",),
    130: ("KeyboardInterrupt",),
    -2: ("KeyboardInterrupt",),
    143: ("DbtCancelledError",),  # SIGTERM: somebody wanted it to end
    -15: ("DbtCancelledError",),
    137: ("ProcessKilled",),
    -9: ("ProcessKilled",),
}
"""What an exit code means where nothing was printed: as a shell gives it, and as `subprocess` does."""


def _cause(failure: Failure, reading: Reading) -> tuple[str, dict[str, str]]:
    """The code of what went wrong, whatever it went wrong in, and what the text says about it."""
    by_status = _by_status(failure, reading)
    if by_status:
        none = {"done": "none", "total": "its"} if reading.core == _EVERY_BATCH_FAILED else {}
        return by_status, {**_facts(by_status, reading.core, DBT_RULES, reading.reason), **none}
    if PYTHON_FAILED in reading.core:
        return _in_python(failure, reading)
    compiled = reading.kind not in UNCOMPILED
    known = (*DBT_RULES, *sql_rules(failure.adapter)) if compiled else DBT_RULES
    if reading.kind == "Database":
        known = sql_rules(failure.adapter)
    code = (
        _by_exception(failure.exceptions, reading.core, known, databases=compiled)
        or _by_text(reading.core, known)
        or _general(failure.exceptions, reading)
    )
    return code, _facts(code, reading.core, known, reading.reason)


def _by_status(failure: Failure, reading: Reading) -> str:
    status = failure.status.lower()
    if status == "partial success" or (status == "error" and reading.core == _EVERY_BATCH_FAILED):
        return "batches_failed"
    if failure.resource_type == "source":
        return "source_stale" if status in {"error", "warn"} and reading.core in _STALE else ""
    if status in {"fail", "warn"}:
        return "unit_test_failed" if failure.resource_type == "unit_test" else "test_failed"
    return "cancelled" if status == "cancelled" else ""


def _in_python(failure: Failure, reading: Reading) -> tuple[str, dict[str, str]]:
    raised, by_duckdb = raised_in_python(reading.core)
    exception, _, words = raised.partition(": ")
    facts = {"exception": exception, "raised": words.strip().split("\n")[0], "reason": raised.split("\n")[0]}
    if by_duckdb:
        known = sql_rules(failure.adapter)
        code = _by_text(raised, known)
        if code:
            return code, {**facts, **_facts(code, raised, known, facts["reason"])}
    if exception == "MemoryError":
        return "out_of_memory", facts
    missing = re.fullmatch(r"No module named '(?P<name>[^']+)'", words.strip())
    if missing is not None:
        return "python_missing_package", {**facts, "name": missing["name"].partition(".")[0]}
    return "python_model_error", facts


def _by_exception(names: tuple[str, ...], text: str, known: tuple[Rule, ...], *, databases: bool) -> str:
    for name in names:
        codes = DBT_EXCEPTIONS.get(name) or (SQL_EXCEPTIONS.get(name) if databases else None)
        if codes is None:
            continue
        if len(codes) == 1:
            return codes[0]
        found = [rule.code for rule in known if rule.code in codes and rule.search(text)]
        return found[0] if found else codes[-1]
    return ""


def _by_text(text: str, known: tuple[Rule, ...]) -> str:
    return next((rule.code for rule in known if rule.search(text)), "")


def _general(names: tuple[str, ...], reading: Reading) -> str:
    for exception, kind, code in GENERAL:
        if kind == reading.kind or exception in names:
            return code
    if _DATABASE_SAYS.match(reading.core) or "DatabaseError" in names or reading.hook:
        return "database_error"
    return "internal"


def _facts(code: str, text: str, known: tuple[Rule, ...], reason: str) -> dict[str, str]:
    """The groups of the first wording of `code` that is found in `text`."""
    facts = {"reason": reason} if reason else {}
    for rule in known:
        found = rule.search(text) if rule.code == code else None
        if found is not None:
            groups = {name: value.strip() for name, value in found.groupdict().items() if value}
            return {**facts, **groups}
    return facts


def _in_its_place(cause: str, failure: Failure, reading: Reading) -> str:
    """The code of `cause` for the kind of node that it happened in."""
    if cause == "batches_failed":
        return cause
    sql = KINDS[cause].category is Category.DATABASE
    resource = failure.resource_type or reading.resource
    if reading.hook or (resource == "operation" and "-on-run-" in (failure.node or "")):
        return "hook_failed" if sql or cause in {"compilation_error", "internal"} else cause
    if resource in {"seed", "snapshot"} and (sql or cause == "compilation_error"):
        return _OWN_CODE[resource]
    if sql and (PYTHON_FAILED in reading.core or failure.language == "python"):
        return "python_model_error"
    return _OWN_CODE.get(resource, cause) if sql else cause


def _message(finding: Finding) -> str:
    """One sentence: where, and what."""
    try:
        what = KINDS[finding.cause].title.format_map(finding.facts)
    except KeyError:
        what = finding.reading.reason or KINDS[finding.cause].title.partition("{")[0].strip() or finding.cause
    if finding.cause in {"test_failed", "unit_test_failed"} and finding.failure.status.lower() == "warn":
        what = f"{what} (a warning)"
    message = f"{finding.where}: {what}" if finding.where else what
    message = scrub(message, finding.failure.secrets)  # first: a part of a value is not found
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def _file(failure: Failure, reading: Reading, facts: dict[str, str]) -> str | None:
    if reading.hook:
        return "dbt_project.yml"
    of_node = _PATH_OF_NODE.match(reading.core)
    in_text = "/".join(part for part in (facts.get("folder"), facts.get("file")) if part)
    path = failure.file or in_text or reading.path or (of_node["path"] if of_node else "")
    if path.endswith("dbt_project.yml"):
        return "dbt_project.yml"  # dbt gives the whole path
    return path.removeprefix("./") or None


def _line_in_file(failure: Failure, reading: Reading, cause: str, facts: dict[str, str]) -> int | None:
    if PYTHON_FAILED in reading.core:
        frame = frame_in_python(reading.core, failure.raw_code or "")
        return frame.line if frame is not None else None
    if cause == "yaml_syntax":
        return int(facts["line"]) if "line" in facts else None
    if cause == "seed_error" and "row" in facts:
        return int(facts["row"]) + 2  # agate counts rows from 0, below the header
    pattern = {"jinja_syntax": _JINJA_LINE, "python_syntax": _PYTHON_LINE}.get(cause, _CSV_LINE)
    found = pattern.search(reading.text)
    return int(next(group for group in found.groups() if group)) if found is not None else None


def _line_in_sql(
    failure: Failure, reading: Reading, cause: str, facts: dict[str, str]
) -> tuple[int | None, str | None]:
    """Line of the compiled SQL and the lines around it, where the trouble is with the SQL."""
    sql = failure.compiled_code
    if not sql or failure.language != "sql" or KINDS[cause].category is not Category.DATABASE:
        return None, None
    word = next((facts[name] for name in _NAMING if name in facts), "")
    line, column = locate(sql, reading.place, word.rpartition(".")[2].strip('"'))
    if line is None:
        return None, None
    return line, excerpt(sql, line, column)
