"""Rebuilds the objects that callers of dbt's runner expect from a relay result and its artifacts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import agate
import dbt.adapters.events.types
import dbt.events.types
import dbt_common.events.types
from dbt.adapters.exceptions import FailedToConnectError
from dbt.artifacts.schemas.catalog import CatalogArtifact
from dbt.artifacts.schemas.manifest import WritableManifest
from dbt.artifacts.schemas.results import NodeStatus, RunStatus, TestStatus, TimingInfo
from dbt.artifacts.schemas.run import RunExecutionResult, RunResult
from dbt.cli.exceptions import DbtUsageException
from dbt.contracts.graph.manifest import Manifest
from dbt.exceptions import DbtProfileError, DbtProjectError, DependencyError, ParsingError
from dbt_common.events.base_types import EventMsg
from dbt_common.exceptions import (
    CompilationError,
    DbtDatabaseError,
    DbtInternalError,
    DbtRuntimeError,
    DbtValidationError,
)
from google.protobuf.json_format import ParseDict

from workers.contract.errors import Category, ErrorInfo
from workers.contract.results import DbtResult

_EVENTS = (dbt.events.types, dbt.adapters.events.types, dbt_common.events.types)
_ERROR_KIND = re.compile(r"(Compilation|Parsing|Database|Dependency|Validation|Internal|Runtime|Usage) Error")
_BY_KIND: dict[str, type[Exception]] = {
    "Compilation": CompilationError,
    "Parsing": ParsingError,
    "Database": DbtDatabaseError,
    "Dependency": DependencyError,
    "Validation": DbtValidationError,
    "Internal": DbtInternalError,
    "Runtime": DbtRuntimeError,
    "Usage": DbtUsageException,
}
_BY_CATEGORY: dict[str, type[Exception]] = {
    Category.USAGE.value: DbtUsageException,
    Category.COMPILATION.value: CompilationError,
    Category.PARSING.value: ParsingError,
    Category.DEPENDENCY.value: DependencyError,
    Category.CONNECTION.value: FailedToConnectError,
    Category.DATABASE.value: DbtDatabaseError,
    Category.INTERNAL.value: DbtInternalError,
}


def exception(error: ErrorInfo) -> Exception:
    """Rebuild dbt's exception from a classified error, with the class that its text names."""
    text = error.detail or error.message
    found = _ERROR_KIND.match(text)
    if found is not None:
        base = _BY_KIND[found[1]]
    elif error.category == Category.CONFIGURATION.value:
        base = DbtProfileError if "profile" in text.lower() else DbtProjectError
    else:
        base = _BY_CATEGORY.get(error.category, DbtRuntimeError)
    # dbt's constructors need nodes and macros; the text already has what they would add
    rebuilt = type(base.__name__, (base,), {"__init__": _init, "__str__": lambda self: self.args[0]})
    return rebuilt(text)  # type: ignore[no-any-return]


def _init(self: Any, text: str) -> None:
    Exception.__init__(self, text)
    self.msg, self.node, self.stack = text, None, []


def event(line: dict[str, Any]) -> EventMsg:
    """Rebuild dbt's event object from its JSON line.

    Raises:
        KeyError: the line is not an event of dbt.
    """
    name = line["info"]["name"]
    kind = next((getattr(module, name) for module in _EVENTS if hasattr(module, name)), None)
    if kind is None:
        raise KeyError(name)
    message = getattr(kind.PROTO_TYPES_MODULE, f"{name}Msg")()
    return ParseDict(line, message, ignore_unknown_fields=True)


def printed_table(text: str) -> agate.Table | None:
    """Parse the table that ``dbt show`` printed."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return agate.Table(rows[2:], rows[0]) if len(rows) > 1 else None


def manifest(target: Path) -> Manifest | None:
    """Read the manifest of the last command; None if there is none."""
    path = target / "manifest.json"
    if not path.is_file():
        return None
    return Manifest.from_writable_manifest(
        WritableManifest.upgrade_schema_version(json.loads(path.read_text()))
    )


def catalog(target: Path) -> CatalogArtifact:
    """Read the catalog of ``docs generate``."""
    return CatalogArtifact.from_dict(json.loads((target / "catalog.json").read_text()))


def execution_result(result: DbtResult, known: Manifest | None) -> RunExecutionResult:
    """Rebuild the result of dbt's runner for commands that execute nodes."""
    written = result.run_results or {}
    return RunExecutionResult(
        results=[_run_result(entry, known) for entry in written.get("results", [])],
        elapsed_time=written.get("elapsed_time", 0.0),
        args=written.get("args", {}),
    )


def _run_result(entry: dict[str, Any], known: Manifest | None) -> RunResult:
    unique_id = entry["unique_id"]
    is_test = unique_id.startswith(("test.", "unit_test."))
    status: Any = entry["status"]
    statuses: Any = TestStatus if is_test and status in set(TestStatus) else RunStatus
    if status not in set(statuses):
        statuses = NodeStatus
    node = _node(unique_id, known)
    for name in ("compiled", "compiled_code", "relation_name"):
        if entry.get(name) is not None:
            setattr(node, name, entry[name])
    return RunResult(
        status=statuses(status), timing=[TimingInfo.from_dict(each) for each in entry["timing"]],
        thread_id=entry["thread_id"], execution_time=entry["execution_time"], message=entry["message"],
        adapter_response=entry["adapter_response"], failures=entry["failures"], node=node,
    )  # fmt: skip


def _node(unique_id: str, known: Manifest | None) -> Any:
    sections = (
        ()
        if known is None
        else (known.nodes, known.unit_tests, known.sources, getattr(known, "functions", {}))
    )
    for section in sections:
        if unique_id in section:
            return section[unique_id]
    return SimpleNamespace(unique_id=unique_id, name=unique_id.rsplit(".", 1)[-1])
