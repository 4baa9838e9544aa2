"""Executes whole commands (``compile``, ``docs generate``, ``debug``, …) with dbt's programmatic interface."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import agate  # type: ignore[import-untyped]
from dbt.adapters.factory import FACTORY
from dbt.artifacts.schemas.catalog import CatalogArtifact
from dbt.artifacts.schemas.freshness import FreshnessResult
from dbt.artifacts.schemas.run import RunExecutionResult, RunResultsArtifact
from dbt.cli.main import cli, dbtRunner
from dbt.task.retry import RETRYABLE_STATUSES
from dbt_common.invocation import get_invocation_id

from workers.contract.errors import ErrorInfo
from workers.contract.errors.classify import Failure, classify, classify_text
from workers.contract.errors.console_output import first_failure
from workers.contract.events import LINE, STDERR, Event
from workers.contract.keys import RUN_RESULTS
from workers.contract.results import BAD_STATUSES
from workers.engine.caller.missing_environment import checked_environment
from workers.engine.execution.artifacts import plain_artifact, run_results_of
from workers.engine.execution.failure import classify_command
from workers.engine.execution.retry import PreviousResults, state_folder
from workers.engine.interface import Finished, RunSpec, StepResult
from workers.engine.output.events import LineSink
from workers.engine.output.file_log import divert_log_file
from workers.engine.output.masking import known_secrets
from workers.engine.warehouse.fencing import FencedAdapters

WITHOUT_WAREHOUSE = frozenset({"clean", "deps", "init", "list", "ls", "parse"})
"""Commands that open no connection."""


def execute_command(
    spec: RunSpec,
    command: str,
    sink: LineSink,
    previous: PreviousResults | None = None,
    *,
    exiting: Callable[[], bool] = lambda: False,
) -> Finished:
    """Execute a whole command.

    Args:
        previous: run results that ``retry`` repeats, instead of those in the target folder.
        exiting: whether this process was told to exit. Otherwise a SystemExit is an error of the command.

    Raises:
        KeyboardInterrupt, SystemExit: this process was told to stop (dbt's interface returns them as data).
    """
    FACTORY.adapters = FencedAdapters()
    lines: list[str] = []
    with (
        _collected_lines(sink, lines), _agate_on_stdout(), _retryable_statuses_restored(), _program_named_dbt(),
        checked_environment(spec.withheld), contextlib.ExitStack() as stack,
    ):  # fmt: skip
        if spec.file_log:
            stack.enter_context(divert_log_file(sink.record))
        state = [] if previous is None else ["--state", stack.enter_context(state_folder(previous))]
        outcome = dbtRunner().invoke([*spec.args, *state])
    error: BaseException | None = outcome.exception
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and exiting()):
        raise error
    if error is not None:
        return Finished(return_code=2, error=classify_command(error, command))
    result: Any = outcome.result
    finished = Finished(return_code=0 if outcome.success else 1, target_path=_target_path())
    if isinstance(result, RunExecutionResult):
        finished.run_results = run_results_of(result)
        finished.results = [_step_result(each, command) for each in result.results]
        return finished
    if isinstance(result, RunResultsArtifact):  # of `run-operation`
        finished.run_results = plain_artifact(result)
    elif isinstance(result, CatalogArtifact) and finished.target_path:
        finished.run_results = _run_results_of_docs_generate(Path(finished.target_path))
    if not outcome.success:
        if isinstance(result, FreshnessResult):
            finished.results = [_step_result(each, command) for each in result.results]
        if not any(each.error for each in finished.results):
            finished.error = _error_from_lines("\n".join(lines), command)
    return finished


def _target_path() -> str:
    """Folder where the command wrote its artifacts; empty for commands that create no adapter."""
    adapters: Iterable[Any] = FACTORY.adapters.values()
    # `debug` has a profile without a target path
    return next((str(getattr(adapter.config, "project_target_path", "")) for adapter in adapters), "")


def _run_results_of_docs_generate(target: Path) -> dict[str, Any] | None:
    """Read the run results that ``docs generate`` wrote when it compiled: dbt returns only the catalog."""
    path = target / RUN_RESULTS
    with contextlib.suppress(OSError, ValueError):  # --no-compile writes none
        artifact: dict[str, Any] = json.loads(path.read_bytes())
        if artifact["metadata"]["invocation_id"] == get_invocation_id():
            return artifact
    return None


@contextlib.contextmanager
def _collected_lines(sink: LineSink, lines: list[str]) -> Iterator[None]:
    """Append each console line to `lines`: some commands print their error and do not return it."""
    emit = sink.emit

    def emit_and_collect(event: Event) -> None:
        if event.kind == LINE and event.stream != STDERR:
            lines.append(event.text)
        emit(event)

    sink.emit = emit_and_collect
    try:
        yield
    finally:
        sink.emit = emit


@contextlib.contextmanager
def _agate_on_stdout() -> Iterator[None]:
    """Make ``seed --show`` print to the current stdout: agate bound the stdout of its import time."""
    print_table = agate.Table.print_table
    agate.Table.print_table = functools.partialmethod(print_table, output=sys.stdout)
    try:
        yield
    finally:
        agate.Table.print_table = print_table


@contextlib.contextmanager
def _program_named_dbt() -> Iterator[None]:
    """Use the program name ``dbt`` in logs and help texts; dbt's programmatic interface uses ``cli``."""
    name, cli.name = cli.name, "dbt"
    try:
        yield
    finally:
        cli.name = name


@contextlib.contextmanager
def _retryable_statuses_restored() -> Iterator[None]:
    """Restore dbt.task.retry.RETRYABLE_STATUSES, a module variable to which ``--warn-error retry`` adds."""
    statuses = set(RETRYABLE_STATUSES)
    try:
        yield
    finally:
        RETRYABLE_STATUSES.intersection_update(statuses)


def _error_from_lines(text: str, command: str) -> ErrorInfo:
    """Classify the failure of a command that returned no error, from its console lines."""
    if first_failure(text, "") is not None:
        return classify_text(text, "", 1, secrets=known_secrets())
    # dbt.task.debug.COULD_NOT_CONNECT_MESSAGE
    _, found, rest = text.partition("returned the following error:")
    message, end, _ = rest.partition("\nCheck your database")
    if found and end:
        message = message.strip().removeprefix(">").strip()
        return classify(Failure(message=message, command=command, secrets=known_secrets()))
    return classify(Failure(message=f"dbt {command} failed; its output contains the error", command=command))


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
                compiled_code=getattr(node, "compiled_code", None),
                failures=getattr(result, "failures", None),
                secrets=known_secrets(),
            )
        )  # fmt: skip
    return StepResult(
        unique_id=getattr(node, "unique_id", ""), status=status, name=getattr(node, "name", ""),
        resource_type=str(getattr(node, "resource_type", "")), message=result.message, error=error,
        result={"execution_time": result.execution_time, "message": result.message},
    )  # fmt: skip
