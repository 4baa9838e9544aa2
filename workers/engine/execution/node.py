"""Executes one dbt node with dbt's own node runner, and converts its result for the ledger."""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from dbt.artifacts.resources import InjectedCTE
from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.artifacts.schemas.results import RunStatus, TestStatus, TimingInfo
from dbt.artifacts.schemas.run import RunResult
from dbt.contracts.graph.nodes import UnitTestDefinition, UnitTestNode
from dbt.graph.thread_pool import DbtThreadPool
from dbt.node_types import NodeType
from dbt.task.base import BaseRunner
from dbt.task.build import BuildTask
from dbt.task.run import MicrobatchModelRunner
from dbt_common.context import get_invocation_context

from workers.contract.results import BAD_STATUSES
from workers.engine.execution.failure import classify_node
from workers.engine.execution.run_state import RunState
from workers.engine.interface import StepOutcome, StepResult
from workers.engine.project.time_limits import TimeLimitError
from workers.engine.warehouse.concurrency import open_warehouse

_OVERLOADS = "overload_results"
_COMPILED = (
    "compiled", "compiled_code", "compiled_path", "build_path", "extra_ctes_injected",
    "_pre_injected_sql",
)  # fmt: skip


@functools.cache
def _runner_class(base: type[BaseRunner]) -> type[BaseRunner]:
    """dbt's runner class, which also keeps the exception of a failed node and opens DuckDB for Python models."""

    class RelayRunner(base):  # type: ignore[valid-type, misc]
        raised: BaseException | None = None
        time_limit_message: Callable[[], str | None]

        def run(self, compiled_node: Any, manifest: Any) -> RunResult:
            if getattr(compiled_node, "language", "") == "python":
                open_warehouse(self.adapter)
            result: RunResult = super().run(compiled_node, manifest)
            return result

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            if getattr(self.node, "language", "") == "python":
                open_warehouse(self.adapter)
            return super().execute(*args, **kwargs)

        def handle_exception(self, e: Exception, ctx: Any) -> str:
            text = self.time_limit_message()
            if text is not None:  # replaces the error of the cancelled query
                e = TimeLimitError(text)
            self.raised = e
            return str(super().handle_exception(e, ctx))

    RelayRunner.__name__ = base.__name__
    return RelayRunner


def execute_node(
    run: RunState,
    unique_id: str,
    index: int,
    *,
    skip: bool = False,
    cause: StepResult | None = None,
    time_limit_message: Callable[[], str | None] = lambda: None,
) -> StepOutcome:
    """Execute or skip a node exactly as dbt's command does.

    Args:
        index: dbt's number of the node in the run.
        skip: skip the node, because a parent failed.
        cause: result of that parent. dbt reports an ephemeral parent together with the skip.
        time_limit_message: returns the error text once the node has exceeded its time limit, else None.

    Raises:
        KeyboardInterrupt, SystemExit: this process was told to stop.
    """
    task = run.task
    node = run.copy_node(unique_id)
    task.run_count = index
    runner = _runner_of(run, node, index)
    runner.time_limit_message = time_limit_message
    if skip:
        with_model = isinstance(node, UnitTestDefinition) and not _is_retry(run)
        known = cause is not None and cause.ephemeral and not with_model
        runner.do_skip(cause=run_result(run, cause) if cause is not None and known else None)
    with _batch_pool(run, runner):
        started = time.time()
        result = task.call_runner(runner)
    fail_fast, task._raise_next_tick = task._raise_next_tick is not None, None
    if isinstance(task, BuildTask) and not _is_retry(run):
        # `dbt build` runs a model and its unit tests together: it skips the model before it stops the run
        if isinstance(node, UnitTestDefinition):
            fail_fast = False
        elif skip and cause is not None and cause.resource_type == str(NodeType.Unit):
            fail_fast = bool(run.flags.FAIL_FAST)
    status = str(result.status)
    error = None
    if status in BAD_STATUSES and status != "skipped":
        error = classify_node(run, result.node, status, result.message or "", result.failures, runner.raised)
    return StepOutcome(
        result=step_result(run, unique_id, result, started, error=error),
        blocks=result.status in task.MARK_DEPENDENT_ERRORS_STATUSES and not _lets_children_run(result.node),
        stop="fail_fast" if fail_fast else None,
    )


def _runner_of(run: RunState, node: Any, index: int) -> Any:
    """dbt's runner of a node, made as dbt's task makes it (dbt.task.runnable.GraphRunnableTask.get_runner)."""
    task = run.task
    runner_type = task.get_runner_type(node)
    if runner_type is None:
        raise ValueError(f"dbt has no runner for {node.unique_id}")
    number, total = (0, 0) if node.is_ephemeral_model else (index, task.num_nodes)
    runner: Any = _runner_class(runner_type)(run.config, run.context.adapter, node, number, total)
    runner.compiler.selected_node_ids = getattr(task.compiler, "selected_node_ids", set())  # dbt-core >= 1.12
    return runner


@contextlib.contextmanager
def _batch_pool(run: RunState, runner: Any) -> Iterator[None]:
    """Give a microbatch model the thread pool that executes its batches; no effect on other nodes."""
    if not isinstance(runner, MicrobatchModelRunner):
        yield
        return
    task = run.task
    task.job_queue = _BatchQueue("")
    pool = run.pool = DbtThreadPool(
        run.config.threads, task._pool_thread_initializer, [get_invocation_context()]
    )
    runner.set_parent_task(task)
    runner.set_pool(pool)
    try:
        yield
    finally:
        if pool.is_closed():  # the run was cancelled: start no further batch
            pool.terminate()
        pool.close()
        pool.join()
        run.pool = None


def _lets_children_run(node: Any) -> bool:
    """Whether a model has ``on_error: continue``, so that its children run after it failed (dbt-core >= 1.12,
    dbt.task.runnable.GraphRunnableTask._handle_result)."""
    on_error = getattr(node.config, "on_error", None)
    return node.resource_type is NodeType.Model and getattr(on_error, "value", None) == "continue"


def _is_retry(run: RunState) -> bool:
    # `dbt retry` runs the unit tests of a build as nodes of their own, apart from their model
    return run.facts is not None and run.facts.retry is not None


class _BatchQueue:
    """Stands for the task's queue, which a microbatch runner asks for the number of nodes in progress."""

    def __init__(self, unique_id: str) -> None:
        self.in_progress = {unique_id}
        self.in_progress_microbatch = {unique_id}


def plain_result(result: RunResult) -> dict[str, Any]:
    """Convert a RunResult to JSON-compatible data, without its node."""
    overloads = getattr(result, _OVERLOADS, None)  # dbt-core >= 1.12
    more = {} if overloads is None else {_OVERLOADS: overloads.to_dict()}
    return {
        **more,
        "status": str(result.status),
        "timing": [timing.to_dict() for timing in result.timing],
        "thread_id": result.thread_id,
        "execution_time": result.execution_time,
        "message": result.message,
        "adapter_response": result.adapter_response,
        "failures": result.failures,
        "batch_results": None if result.batch_results is None else result.batch_results.to_dict(),
    }


def step_result(run: RunState, unique_id: str, result: RunResult, started: float, **more: Any) -> StepResult:
    """Convert a node's result for the ledger.

    Args:
        started: start of the node, seconds since the epoch.
        more: further fields of StepResult.
    """
    node: Any = result.node
    also = {
        other: patch_of(run.manifest.nodes[other])
        for other in run.inlined_models
        if other != unique_id and getattr(run.manifest.nodes[other], "compiled", False)
    }  # fmt: skip
    return StepResult(
        unique_id=unique_id, status=str(result.status), name=node.name,
        resource_type=str(node.resource_type), ephemeral=bool(node.is_ephemeral_model),
        message=result.message, result=plain_result(result), patch=patch_of(node), also=also,
        node=node.to_dict(omit_none=False) if isinstance(node, UnitTestNode) else None,
        started_at=started, finished_at=time.time(), **more,
    )  # fmt: skip


def patch_of(node: Any) -> dict[str, Any]:
    """Return the attributes that compiling and executing changed on a node. See `apply_patch`."""
    patch = {
        name: getattr(node, name)
        for name in _COMPILED
        # seeds define some of them as constants
        if getattr(node, name, None) is not None and not isinstance(getattr(type(node), name, None), property)
    }
    if getattr(node, "extra_ctes", None):
        patch["extra_ctes"] = [[cte.id, cte.sql] for cte in node.extra_ctes]
    if getattr(node, "depends_on", None) is not None:
        patch["macros"] = node.depends_on.macros  # dbt adds the macros that the node called
    if getattr(node, "overloads", None):
        patch["overloads"] = [overload.compiled_body for overload in node.overloads]
    return patch


def apply_patch(node: Any, patch: dict[str, Any]) -> None:
    """Set on a node the attributes that compiling it in another process changed. See `patch_of`."""
    for name, value in patch.items():
        if name == "extra_ctes":
            node.extra_ctes = [InjectedCTE(id=cte_id, sql=sql) for cte_id, sql in value]
        elif name == "macros":
            node.depends_on.macros = value
        elif name == "overloads":
            for overload, compiled in zip(node.overloads, value, strict=True):
                overload.compiled_body = compiled
        else:
            setattr(node, name, value)


def apply_result(run: RunState, step: StepResult) -> None:
    """Set on the run's nodes what a step changed on them in another process."""
    for hook in step.hooks:
        node = run.copy_node(hook["unique_id"])
        node.index = hook["index"]
        apply_patch(node, hook["patch"])
    for unique_id, patch in step.also.items():
        apply_patch(run.copy_node(unique_id), patch)
    if step.patch and step.node is None:  # other nodes are not in the manifest
        apply_patch(run.copy_node(step.unique_id), step.patch)


def run_result(run: RunState, step: StepResult) -> RunResult:
    """Rebuild dbt's RunResult from a stored step result."""
    plain = step.result
    if step.node is not None:
        node: Any = UnitTestNode.from_dict(step.node)
    else:
        node = run.copy_node(step.unique_id)
        apply_patch(node, step.patch)
    is_test = step.resource_type in {str(NodeType.Test), str(NodeType.Unit)}
    status: Any = plain["status"]
    known: Any = TestStatus if is_test and status in set(TestStatus) else RunStatus
    batches = plain["batch_results"]
    result = RunResult(
        status=known(status),
        timing=[TimingInfo.from_dict(timing) for timing in plain["timing"]],
        thread_id=plain["thread_id"],
        execution_time=plain["execution_time"],
        message=plain["message"],
        adapter_response=plain["adapter_response"],
        failures=plain["failures"],
        batch_results=None if batches is None else BatchResults.from_dict(batches),
        node=node,
    )
    if plain.get(_OVERLOADS) is not None:
        setattr(result, _OVERLOADS, _overload_results(plain[_OVERLOADS]))
    return result


def _overload_results(plain: dict[str, Any]) -> Any:
    kind: Any = importlib.import_module("dbt.artifacts.schemas.overload_results")  # dbt-core >= 1.12
    return kind.OverloadResults.from_dict(plain)
