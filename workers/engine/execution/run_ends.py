"""Start and close of a run: what dbt does once before the first node, and once after the last."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dbt.adapters.exceptions import FailedToConnectError
from dbt.artifacts.schemas.results import RunStatus
from dbt.artifacts.schemas.run import RunExecutionResult, RunResult, RunResultsArtifact
from dbt.constants import MANIFEST_FILE_NAME, SEMANTIC_MANIFEST_FILE_NAME
from dbt.events.types import (
    ArtifactWritten,
    ConcurrencyLine,
    EndRunResult,
    NothingToDo,
    SkippingDetails,
)
from dbt.flags import get_flags
from dbt.parser.manifest import write_semantic_manifest
from dbt.task import group_lookup
from dbt.task.printer import print_run_result_error
from dbt.task.runnable import mark_node_as_skipped
from dbt_common.events.functions import fire_event, warn_or_error
from dbt_common.events.types import Formatting
from dbt_common.exceptions import DbtRuntimeError
from dbt_common.utils.encoding import ForgivingJSONEncoder

from workers.contract.log import log
from workers.engine.execution.manifest_file import write_bytes, write_json
from workers.engine.execution.node import apply_patch, patch_of, plain_result, run_result
from workers.engine.execution.run_state import RunState
from workers.engine.interface import Finished, StepOutcome, StepResult
from workers.engine.template_state.calls import as_parsed
from workers.engine.warehouse import fencing


def start(run: RunState) -> StepOutcome:
    """Create schemas, fill the relation cache, run on-run-start hooks (dbt.task.runnable.execute_with_hooks).

    Raises:
        dbt's own errors: errors that end dbt's command with exit code 2.
    """
    task, facts = run.task, run.facts
    if facts is None:
        raise RuntimeError("a start step needs the facts of the plan")
    began = time.time()
    fire_event(Formatting(""))
    fire_event(
        ConcurrencyLine(
            num_threads=run.config.threads, target_name=run.config.target_name,
            node_count=_node_count(run),
        )
    )  # fmt: skip
    fire_event(Formatting(""))
    run.copy_hooks()
    try:
        status = task.before_run(run.context.adapter, frozenset(facts.flattened))
    except BaseException:
        task.print_results_line(task.node_results, time.time() - began)
        raise
    snapshot = run.recorder.snapshot()
    hooks = [_hook_result(result) for result in task.node_results]
    task.node_results = []
    return StepOutcome(
        result=StepResult(
            unique_id="@start", status=str(status), hooks=hooks, started_at=began,
            finished_at=time.time(),
        ),
        stop="fail_fast" if _skips_all(str(status)) else None,
        cache=(snapshot,),
    )  # fmt: skip


def _node_count(run: RunState) -> int:
    """Number of nodes before a build adds its unit tests (dbt's GraphRunnableTask.num_nodes)."""
    nodes = [run.node(unique_id) for unique_id in (run.facts.flattened if run.facts else ())]
    return sum(not node.is_ephemeral_model for node in nodes)


def _skips_all(status: str) -> bool:
    """Whether dbt skips all nodes after an on-run-start hook ended with `status`."""
    return status != str(RunStatus.Success) and bool(
        getattr(get_flags(), "skip_nodes_if_on_run_start_fails", False)
    )


def _hook_result(result: RunResult) -> dict[str, Any]:
    node: Any = result.node
    return {
        "unique_id": node.unique_id, "index": node.index, "patch": patch_of(node), **plain_result(result)
    }  # fmt: skip


def _hook_run_result(run: RunState, plain: dict[str, Any]) -> RunResult:
    node = run.copy_node(plain["unique_id"])
    node.index = plain["index"]
    step = StepResult(
        unique_id=plain["unique_id"], status=plain["status"], resource_type="operation",
        patch=plain["patch"], result=plain,
    )  # fmt: skip
    return run_result(run, step)


def close(
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
    if started is not None and not cancelled and _skips_all(started.status):
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
    task, facts, total = run.task, run.facts, _node_count(run)
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


def write_manifest(run: RunState, changed: set[str]) -> None:
    """Write manifest.json and semantic_manifest.json (dbt.parser.manifest.write_manifest).

    Args:
        changed: unique ids of entries to write in the run's state; all others are written as parsed.
    """
    target = run.config.project_target_path
    run.manifest.metadata = run.config.get_metadata()
    run.manifest.fill_tracking_metadata()
    path = os.path.join(target, MANIFEST_FILE_NAME)
    write_bytes(path, run.context.manifest_file.render(run.manifest, changed))
    fire_event(ArtifactWritten(artifact_type="WritableManifest", artifact_path=path))
    path = os.path.join(target, SEMANTIC_MANIFEST_FILE_NAME)
    if run.context.semantic_manifest is None:
        with as_parsed():
            write_semantic_manifest(manifest=run.manifest, target_path=target)
        run.context.semantic_manifest = Path(path).read_bytes()
    else:
        write_bytes(path, run.context.semantic_manifest)
        fire_event(ArtifactWritten(artifact_type="SemanticManifest", artifact_path=path))


def run_results_of(result: RunExecutionResult) -> dict[str, Any]:
    """Convert results to the content of dbt's run_results.json."""
    artifact = RunResultsArtifact.from_execution_results(
        results=result.results, elapsed_time=result.elapsed_time,
        generated_at=result.generated_at, args=result.args,
    )  # fmt: skip
    return plain_artifact(artifact)


def plain_artifact(artifact: RunResultsArtifact) -> dict[str, Any]:
    """Convert an artifact of dbt to JSON-compatible data."""
    plain: dict[str, Any] = json.loads(
        json.dumps(artifact.to_dict(omit_none=False), cls=ForgivingJSONEncoder)
    )
    return plain
