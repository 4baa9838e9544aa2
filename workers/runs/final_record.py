"""The final record of a run: its last entry in the ledger, from which producers read its result. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.contract.errors import Category, ErrorInfo
from workers.contract.keys import STEP_CLOSE, STEP_COMMAND, STEP_PLAN, STEP_START
from workers.contract.results import Attempt, NodeResult
from workers.contract.run_store import FinalRecord
from workers.engine.interface import Finished, StepResult, encode


def repetition_warnings(word: str, finished: Finished, attempts: Sequence[Attempt]) -> dict[str, str]:
    """A warning for each step whose hooks, or whose command, may have been executed twice.

    An execution that was lost left no attempt, so its number is missing. How far it came is not known.

    Args:
        word: the first word of the command.
        attempts: every execution of every step that ended.
    """
    entries = (finished.run_results or {}).get("results", [])
    hooks = [entry["unique_id"] for entry in entries if entry["unique_id"].startswith("operation.")]
    what = {
        STEP_START: "on-run-start hooks were" if any("-on-run-start-" in hook for hook in hooks) else "",
        STEP_CLOSE: "on-run-end hooks were" if any("-on-run-end-" in hook for hook in hooks) else "",
        STEP_COMMAND: f"dbt {word} was" if word in {"run-operation", "retry"} else "",
        # a run that is executed whole, with all of its hooks
        STEP_PLAN: "hooks were" if hooks and attempts[-1].step == STEP_PLAN else "",
    }
    return {
        step: f"{subject} executed again and may have run twice: an earlier execution {why}"
        for step, subject in what.items()
        if subject and (why := _end_of_earlier(step, attempts))
    }


def _end_of_earlier(step: str, attempts: Sequence[Attempt]) -> str:
    """How an earlier execution of a step without a result ended; empty where there was none."""
    numbers = {attempt.number: attempt.status for attempt in attempts if attempt.step == step}
    if numbers and len(numbers) < max(numbers):
        return "was lost (its worker process ended, or did not answer for too long)"
    return "was ended because its worker was stopping" if "handed back" in numbers.values() else ""


def make_final_record(
    finished: Finished,
    steps: list[StepResult],
    attempts: list[Attempt],
    warnings: Mapping[str, str] | None = None,
) -> bytes:
    """The final record of a run, JSON. Node results come in the order of dbt's run results.

    Args:
        warnings: by step (`repetition_warnings`).
    """
    by_id = {step.unique_id: step for step in steps}
    tried: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.status != "skipped":
            tried.setdefault(attempt.step, []).append(attempt)
    entries: list[dict[str, Any]] = (finished.run_results or {}).get("results", [])
    nodes = [_node(entry, by_id.get(entry["unique_id"]), tried.get(entry["unique_id"], []))
             for entry in entries]  # fmt: skip
    if not entries:
        nodes = [_node({"unique_id": step.unique_id, "status": step.status, **step.result}, step,
                       tried.get(step.unique_id, [])) for step in steps]  # fmt: skip
    error = finished.error or next((node.error for node in nodes if node.error is not None), None)
    if error is None and finished.return_code:
        error = _from_statuses(nodes)
    return encode(
        FinalRecord(
            return_code=finished.return_code,
            nodes=nodes,
            error=error,
            run_results=finished.run_results,
            attempts=[attempt for attempt in attempts if attempt.step.startswith("@")],
            warnings=list((warnings or {}).values()),
        )
    )


def _from_statuses(nodes: list[NodeResult]) -> ErrorInfo:
    bad = next((node for node in nodes if not node.success), None)
    message = f"{bad.unique_id}: {bad.message or bad.status}" if bad else "the command failed"
    return ErrorInfo(
        code="failed", category=Category.INTERNAL.value, error_class="DbtExecutionError",
        message=message, node=bad.unique_id if bad else None,
    )  # fmt: skip


def _node(entry: dict[str, Any], step: StepResult | None, attempts: list[Attempt]) -> NodeResult:
    unique_id = entry["unique_id"]
    return NodeResult(
        unique_id=unique_id,
        name=step.name if step and step.name else unique_id.rpartition(".")[2],
        resource_type=step.resource_type if step else unique_id.partition(".")[0],
        status=entry["status"], message=entry.get("message"),
        execution_time=float(entry.get("execution_time") or 0.0), failures=entry.get("failures"),
        started_at=attempts[-1].started_at if attempts else 0.0,
        finished_at=attempts[-1].finished_at if attempts else 0.0,
        worker=attempts[-1].worker if attempts else "",
        run_result=entry, error=step.error if step else None, attempts=tuple(attempts),
    )  # fmt: skip
