"""A program: runs dbt commands in its own process and prints, for each, the facts of what failed.

Standard input is a JSON list of ``{"name", "project", "args", "env"}``; standard output a JSON object
of name → ``{"success", "console", "return_code", "failures": [the fields of a classify.Failure]}``.
One process for many commands, since starting dbt takes longer than most of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.factory import reset_adapters
from dbt.cli.main import dbtRunner
from dbt.task.base import BaseRunner

from workers.engine.execution.failure import exception_names

GOOD = {"success", "pass", "skipped", "warn", "no-op"}


def facts_of(
    result: Any, raised: dict[str, tuple[BaseException, Any]], common: dict[str, Any]
) -> dict[str, Any]:
    """What the engine would know of a node that failed."""
    error, node = raised.get(result.node.unique_id, (None, result.node))
    return {
        **common,
        "message": result.message or "",
        "exceptions": exception_names(error),
        "status": str(result.status),
        "node": node.unique_id,
        "resource_type": str(node.resource_type),
        "materialized": str(getattr(node.config, "materialized", "")),
        "language": getattr(node, "language", "sql"),
        "file": node.original_file_path,
        "raw_code": getattr(node, "raw_code", None),
        "compiled_code": getattr(node, "compiled_code", None),
        "failures": getattr(result, "failures", None),
    }


def known_names(project: Path) -> list[str]:
    """Unique ids of what a reference may mean, where dbt got so far as to know them."""
    with contextlib.suppress(OSError):
        manifest = json.loads((project / "target" / "manifest.json").read_bytes())
        nodes = [*manifest["nodes"], *manifest["sources"]]
        return [node for node in nodes if node.partition(".")[0] in {"model", "seed", "snapshot", "source"}]
    return []


def run(project: Path, args: list[str]) -> dict[str, Any]:
    """One command."""
    raised: dict[str, tuple[BaseException, Any]] = {}
    handle = BaseRunner.handle_exception

    def remember(self: Any, error: Exception, context: Any) -> str:
        raised[self.node.unique_id] = (error, context.node)
        return handle(self, error, context)

    reset_adapters()
    DuckDBConnectionManager.close_all_connections()
    os.chdir(project)
    console = io.StringIO()
    BaseRunner.handle_exception = remember
    try:
        with contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
            outcome = dbtRunner().invoke(args)
    finally:
        BaseRunner.handle_exception = handle
    command = next((arg for arg in args if not arg.startswith("-")), "")
    common = {"command": command, "adapter": os.environ.get("RELAY_TEST_TARGET", "duckdb").partition("_")[0]}
    if outcome.exception is not None:
        error = outcome.exception
        failures = [{**common, "message": str(error), "exceptions": exception_names(error)}]
    else:
        common["known_names"] = known_names(project)
        results = getattr(outcome.result, "results", None) or []
        failures = [
            facts_of(result, raised, common)
            for result in results
            if str(result.status) not in GOOD and getattr(result, "node", None) is not None
        ]
    code = 2 if outcome.exception is not None else 0 if outcome.success else 1
    return {
        "success": outcome.success,
        "console": console.getvalue(),
        "return_code": code,
        "failures": failures,
    }


def main() -> None:
    """Reads, runs, prints."""
    unchanged = dict(os.environ)
    done = {}
    for job in json.load(sys.stdin):
        os.environ.clear()
        os.environ.update({**unchanged, **job.get("env", {})})
        done[job["name"]] = run(Path(job["project"]), job["args"])
    os.environ.clear()
    os.environ.update(unchanged)
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
