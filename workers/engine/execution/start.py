"""The start step of a run: what dbt does once before the first node."""

from __future__ import annotations

import time
from typing import Any

from dbt.artifacts.schemas.results import RunStatus
from dbt.artifacts.schemas.run import RunResult
from dbt.events.types import ConcurrencyLine
from dbt.flags import get_flags
from dbt_common.events.functions import fire_event
from dbt_common.events.types import Formatting

from workers.engine.execution.node import patch_of, plain_result
from workers.engine.execution.run_state import RunState
from workers.engine.interface import StepOutcome, StepResult


def start_run(run: RunState) -> StepOutcome:
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
            node_count=node_count(run),
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
        stop="fail_fast" if skips_all(str(status)) else None,
        cache=(snapshot,),
    )  # fmt: skip


def node_count(run: RunState) -> int:
    """Number of nodes before a build adds its unit tests (dbt's GraphRunnableTask.num_nodes)."""
    nodes = [run.node(unique_id) for unique_id in (run.facts.flattened if run.facts else ())]
    return sum(not node.is_ephemeral_model for node in nodes)


def skips_all(status: str) -> bool:
    """Whether dbt skips all nodes after an on-run-start hook ended with `status`."""
    return status != str(RunStatus.Success) and bool(
        getattr(get_flags(), "skip_nodes_if_on_run_start_fails", False)
    )


def _hook_result(result: RunResult) -> dict[str, Any]:
    node: Any = result.node
    return {
        "unique_id": node.unique_id, "index": node.index, "patch": patch_of(node), **plain_result(result)
    }  # fmt: skip
