"""Everything that is not a node: whole commands, executed by dbt's own programmatic interface."""

from __future__ import annotations

import json
import os
from typing import Any

import click
from dbt.adapters.factory import FACTORY
from dbt.artifacts.schemas.run import RunExecutionResult
from dbt.cli.main import dbtRunner
from dbt.config.runtime import RuntimeConfig

from workers.contract.results import BAD_STATUSES
from workers.engine.edges import run_results_of
from workers.engine.events import LineSink
from workers.engine.failure import classify_command
from workers.engine.spec import Finished, RunSpec, StepResult
from workers.contract.classify import Failure, classify

WITHOUT_WAREHOUSE = frozenset({"clean", "deps", "init", "list", "ls", "parse"})
"""Commands that open no connection."""


def execute_command(spec: RunSpec, command: str, sink: LineSink) -> Finished:
    """Execute a command whole.

    Raises:
        KeyboardInterrupt, SystemExit: something stopped this process's work from outside; dbt's own
            interface would return it as data.
    """
    FACTORY.adapters = {}
    outcome = dbtRunner().invoke(list(spec.args))
    if isinstance(outcome.exception, (KeyboardInterrupt, SystemExit)):
        raise outcome.exception
    if outcome.exception is not None:
        error = outcome.exception
        if isinstance(error, click.UsageError) or type(error).__name__ == "DbtUsageException":
            sink.line(f"Error: {error}", level="error")
        return Finished(return_code=2, error=classify_command(error, command))
    result = outcome.result
    finished = Finished(return_code=0 if outcome.success else 1)
    if isinstance(result, RunExecutionResult):
        finished.run_results = run_results_of(result)
        finished.results = [_step_result(each, command) for each in result.results]
    elif not outcome.success:
        finished.error = classify(
            Failure(message=f"dbt {command} failed: its lines say why", command=command)
        )
    return finished


def _step_result(result: Any, command: str) -> StepResult:
    node = getattr(result, "node", None)
    status = str(result.status)
    error = None
    if status in BAD_STATUSES and status != "skipped":
        error = classify(
            Failure(
                message=result.message or "", status=status, command=command,
                node=getattr(node, "unique_id", None),
                resource_type=str(getattr(node, "resource_type", "")),
                file=getattr(node, "original_file_path", None),
                compiled_code=getattr(node, "compiled_code", None), failures=result.failures,
            )
        )  # fmt: skip
    return StepResult(
        unique_id=getattr(node, "unique_id", ""), status=status, name=getattr(node, "name", ""),
        resource_type=str(getattr(node, "resource_type", "")), message=result.message, error=error,
    )  # fmt: skip


def manifest_path(config: RuntimeConfig) -> str:
    """Where dbt leaves the manifest of a project."""
    return os.path.join(config.project_target_path, "manifest.json")


def read_artifact(path: str) -> dict[str, Any] | None:
    """An artifact that a command wrote, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            plain: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return None
    return plain
