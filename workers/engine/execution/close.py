"""The close step of a run: what dbt does once after the last node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from dbt.adapters.exceptions import FailedToConnectError
from dbt.artifacts.schemas.run import RunExecutionResult, RunResult
from dbt.events.types import ArtifactWritten, EndRunResult, NothingToDo, SkippingDetails
from dbt.task import group_lookup
from dbt.task.printer import print_run_result_error
from dbt.task.runnable import mark_node_as_skipped
from dbt_common.events.functions import fire_event, warn_or_error
from dbt_common.exceptions import DbtRuntimeError

from workers.contract.log import log
from workers.engine.execution.artifacts import run_results_of, write_manifest
from workers.engine.execution.node import apply_patch, run_result
from workers.engine.execution.run_state import RunState
from workers.engine.execution.start import node_count, skips_all
from workers.engine.interface import Finished, StepResult
from workers.engine.project.manifest_file import write_json
from workers.engine.warehouse import fencing


def close_run(
    run: RunState,
    started: StepResult | None,
    results: Sequence[StepResult],
    *,
    stop: str | None,
) -> Finished:
    """Run on-run-end hooks, print the summary, write artifacts (the rest of dbt.task.runnable.GraphRunnableTask.run).

    Args:
        started: result of the start step; None if there was nothing to run.
        results: results of all nodes, in the order in which they finished.
        stop: ``fail_fast``, or why the run was cancelled; None for a complete run.

    Raises:
        dbt's own errors: an on-run-end hook ended the command with exit code 2.
    """
    task, facts = run.task, run.facts
    if facts is None:
        raise RuntimeError("a close step needs the facts of the plan")
    if started is None and not facts.flattened:
        warn_or_error(NothingToDo())
        return _finish(run, _execution_result(run, [], 0.0))
    run.copy_hooks()
    task.started_at = facts.began
    task.node_results = [_hook_run_result(run, hook) for hook in started.hooks] if started else []
    for step in results:
        _apply_ephemeral_patches(run, step)
        if not step.ephemeral:
            task.node_results.append(run_result(run, step))
    cancelled = stop is not None and stop != "fail_fast"
    hook_results = task.node_results
    if started is not None and not cancelled and skips_all(started.status):
        _skip_all(run)
        hook_results = []  # dbt passes no results to on-run-end hooks then
    elif stop is not None:
        _skip_the_rest(run, results, "Skipping due to fail_fast" if not cancelled else stop)
    adapter = run.context.adapter
    try:
        fencing.end_earlier_connections(adapter)
    except FailedToConnectError as error:  # the first connection of a hook tries again and raises this
        log("connections of a lost execution may go on", run=run.run_id, error=str(error))
    try:
        if not cancelled:  # dbt runs no on-run-end hooks after an interrupt
            task.after_run(adapter, hook_results)
    except DbtRuntimeError:  # dbt ends the command, but writes the results of the nodes that ran
        run.run_results = run_results_of(
            _execution_result(run, task.node_results, time.time() - task.started_at)
        )
        raise
    finally:
        adapter.cleanup_connections()
        elapsed = time.time() - task.started_at
        task.print_results_line(task.node_results, elapsed)
    return _finish(run, _execution_result(run, task.node_results, elapsed))


def _apply_ephemeral_patches(run: RunState, step: StepResult) -> None:
    for unique_id, patch in step.also.items():
        apply_patch(run.copy_node(unique_id), patch)
    if step.ephemeral:
        apply_patch(run.copy_node(step.unique_id), step.patch)


def _skip_all(run: RunState) -> None:
    """Skip all nodes as dbt does after a failed on-run-start hook, with ``skip_nodes_if_on_run_start_fails``."""
    task, facts, total = run.task, run.facts, node_count(run)
    for index, unique_id in enumerate(facts.flattened if facts else (), 1):
        node = run.node(unique_id)
        fire_event(
            SkippingDetails(
                resource_type=node.resource_type, schema=node.schema, node_name=node.name, index=index,
                total=total, node_info=node.node_info, group=group_lookup.get(unique_id),
            )
        )  # fmt: skip
        skipped: Any = mark_node_as_skipped(node, set(), None)
        task.node_results.append(skipped)


def _skip_the_rest(run: RunState, results: Sequence[StepResult], message: str) -> None:
    """Record the nodes that did not run because the run ended early as skipped, as dbt does."""
    task, facts = run.task, run.facts
    executed = {result.node.unique_id for result in task.node_results}
    for unique_id in facts.flattened if facts else ():
        node = run.node(unique_id)
        if unique_id not in executed:
            skipped: Any = mark_node_as_skipped(node, executed, message)
            task.node_results.append(skipped)
    failed = next((step for step in results if step.status in {"error", "fail", "partial success"}), None)
    if failed is not None and message == "Skipping due to fail_fast":
        print_run_result_error(run_result(run, failed))


def _hook_run_result(run: RunState, plain: dict[str, Any]) -> RunResult:
    node = run.copy_node(plain["unique_id"])
    node.index = plain["index"]
    step = StepResult(
        unique_id=plain["unique_id"], status=plain["status"], resource_type="operation",
        patch=plain["patch"], result=plain,
    )  # fmt: skip
    return run_result(run, step)


def _execution_result(run: RunState, results: list[Any], elapsed: float) -> RunExecutionResult:
    result: RunExecutionResult = run.task.get_result(
        results=results,
        elapsed_time=elapsed,
        generated_at=datetime.now(timezone.utc).replace(tzinfo=None),
    )
    return result


def _finish(run: RunState, result: RunExecutionResult) -> Finished:
    """Fire the final events and write the artifacts."""
    task = run.task
    fire_event(
        EndRunResult(
            results=[each.to_msg_dict() for each in result.results],
            generated_at=result.generated_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            elapsed_time=result.elapsed_time,
            success=task.interpret_results(result.results),
        )
    )
    run_results = run_results_of(result)
    fencing.check_lease()  # files have no fence: a process that lost its lease must not overwrite newer artifacts
    if task.args.write_json:
        write_manifest(run, run.copied | run.templates.changed)
        path = task.result_path()
        write_json(path, run_results)
        fire_event(ArtifactWritten(artifact_type=type(result).__name__, artifact_path=path))
    task.task_end_messages(result.results)
    return Finished(
        return_code=0 if task.interpret_results(result.results) else 1, run_results=run_results,
        target_path=run.config.project_target_path,
    )  # fmt: skip
