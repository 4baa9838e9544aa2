"""What a run's end is made of: node results from steps, the final record, results made by hand."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from workers.contract.errors import CLASS_OF_CATEGORY, Category, ErrorInfo
from workers.contract.folder_identity import folder_identity
from workers.contract.keys import ARTIFACTS, STEP_CLOSE, STEP_COMMAND, STEP_PLAN, STEP_START
from workers.contract.messages import RunRequest
from workers.contract.results import Attempt, NodeResult
from workers.contract.run_store import FinalRecord
from workers.engine.interface import Finished, RunSpec, StepOutcome, StepResult, encode
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Death
from workers.supervision import memory
from workers.supervision.time_limits import Overrun


def refused(message: str, category: Category) -> ErrorInfo:
    """An error that dbt never saw."""
    return ErrorInfo(
        code="refused", category=category.value,
        error_class=CLASS_OF_CATEGORY[category].__name__, message=message,
        suggested_fix="Submit the command again with what the message names put right.",
    )  # fmt: skip


def cancelled(reason: str) -> ErrorInfo:
    """The error of a run that somebody stopped."""
    return ErrorInfo(
        code="cancelled", category=Category.CANCELLED.value, error_class="DbtCancelledError",
        message=f"the run was cancelled: {reason}" if reason != "cancelled" else "the run was cancelled",
        suggested_fix="Submit it again, or run `dbt-relay retry` for what did not finish.",
    )  # fmt: skip


def late(reason: str, run_id: str, planned: Sequence[str], finished: Collection[str]) -> ErrorInfo:
    """The error of a run whose deadline has passed.

    Args:
        planned: every node of the run; empty where it was not planned.
        finished: those that have a result.
    """
    left = [unique_id for unique_id in planned if unique_id not in finished]
    message, detail = f"the run was cancelled: {reason}", ""
    if planned:
        done = [unique_id for unique_id in planned if unique_id in finished]
        message += f"; {len(done)} of {len(planned)} nodes had finished, {len(left)} had not"
        detail = f"finished: {', '.join(done) or 'none'}\nnot finished: {', '.join(left) or 'none'}"
    return ErrorInfo(
        code="deadline", category=Category.TIMEOUT.value, error_class="DbtTimeoutError",
        message=message, detail=detail,
        suggested_fix=(
            "Give it more time (DBT_RELAY_RUN_DEADLINE, or Limits(deadline=…) from Python); "
            f"`dbt-relay retry {run_id}` runs what did not finish."
        ),
    )  # fmt: skip


def worker_lost(claim: Claim, began: float) -> StepOutcome:
    """The result of a node under which too many workers died."""
    message = f"{claim.step} ended {claim.losses} worker processes; it is not tried again"
    if claim.died is not None:
        message += f". The last ended with {claim.died.reason}{_memory_of(claim.died)}"
    error = ErrorInfo(
        code="worker_lost", category=Category.WORKER_LOST.value, error_class="WorkerLostError",
        message=message, node=claim.step, attempts=claim.tries,
        suggested_fix=(
            f"{_what_to_do(claim.died)} DBT_RELAY_MAX_LOSSES sets how often a node is tried that ends its worker."
        ),
    )  # fmt: skip
    return _bad_node(claim, error, "", began)


def over_limit(claim: Claim, overrun: Overrun, worker: str, began: float) -> StepOutcome:
    """The result of a node whose process is ended because it took longer than it may."""
    error = msgspec.structs.replace(overrun.error(claim.step), attempts=claim.tries)
    outcome = _bad_node(claim, error, worker, began)
    outcome.result.result["execution_time"] = overrun.elapsed
    return outcome


def _memory_of(died: Death) -> str:
    seen = f"; it was seen to use {memory.readable(died.peak)}" if died.peak else ""
    of = f" of the {memory.readable(died.limit)} that its worker may use" if seen and died.limit else ""
    killed = "; the kernel ended a process for want of memory at that time" if died.oom else ""
    return seen + of + killed


def _what_to_do(died: Death | None) -> str:
    more = (
        "give its worker more memory (the container's limit), let it run fewer nodes at once (--concurrency), "
        "bound what one query takes (DuckDB: `memory_limit` under `settings` in profiles.yml), or make the "
        "model smaller."
    )
    if died is None:
        return (
            "Its worker was not heard of again: look for it in the kernel's log (out of memory) and in the "
            f"worker's. If memory ran out, {more}"
        )
    if died.code >= 0:
        return (
            "Something that it calls ends the process (sys.exit, os._exit): look for that in the model's "
            "Python code and packages, and in the worker's log."
        )
    if -died.code == signal.SIGKILL:
        if died.oom or died.peak > 0.8 * died.limit > 0:
            return f"Memory ran out: {more}"
        return (
            "Somebody killed it; as a rule that is the kernel, for want of memory, and its log says so. "
            f"If so, {more}"
        )
    return (
        "It crashed in native code, in the warehouse's driver or in a package that a Python model uses: install "
        "another version of that. With PYTHONFAULTHANDLER=1 in its environment the worker's log shows where."
    )


def relation_busy(claim: Claim, worker: str, began: float) -> StepOutcome:
    """The result of a node whose relation another run is writing, where nodes are not to wait."""
    error = ErrorInfo(
        code="relation_busy", category=Category.LOCK.value, error_class="DbtLockError",
        message=f"{claim.step} was not begun: run {claim.busy} is writing its relation",
        node=claim.step, attempts=claim.tries, retryable=True,
        suggested_fix=(
            f"Wait for it (dbt-relay watch {claim.busy}), then run `dbt-relay retry {claim.run_id}`. With "
            "DBT_RELAY_RELATION_LOCKS=wait on the workers nodes wait for each other by themselves."
        ),
    )  # fmt: skip
    return _bad_node(claim, error, worker, began)


def failed_node(claim: Claim, finished: Finished, worker: str, began: float) -> StepOutcome:
    """The result of a node that could not even be given to dbt."""
    error = finished.error or refused("dbt gave the node up", Category.INTERNAL)
    return _bad_node(claim, msgspec.structs.replace(error, node=claim.step), worker, began)


def _bad_node(claim: Claim, error: ErrorInfo, worker: str, began: float) -> StepOutcome:
    kind, _, rest = claim.step.partition(".")
    plain = {
        "status": "error", "timing": [], "thread_id": "", "execution_time": 0.0,
        "message": error.message, "adapter_response": {}, "failures": None, "batch_results": None,
    }  # fmt: skip
    result = StepResult(
        unique_id=claim.step, status="error", name=rest.rpartition(".")[2], resource_type=kind,
        message=error.message, result=plain, error=error, worker=worker, started_at=began,
        finished_at=time.time(),
    )  # fmt: skip
    return StepOutcome(result=result, blocks=True)


def repetitions(word: str, finished: Finished, attempts: Sequence[Attempt]) -> dict[str, str]:
    """A warning for each step whose hooks, or whose command, may have been executed twice.

    The number of an execution that was lost is missing among the attempts. Nobody knows how far it came.

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
    """How an earlier execution of a step ended that gave no result; empty where there was none."""
    numbers = {attempt.number: attempt.status for attempt in attempts if attempt.step == step}
    if numbers and len(numbers) < max(numbers):
        return "was lost (its worker process ended, or did not answer for too long)"
    return "was ended because its worker was stopping" if "handed back" in numbers.values() else ""


def final_of(
    finished: Finished,
    steps: list[StepResult],
    attempts: list[Attempt],
    warnings: Mapping[str, str] | None = None,
) -> bytes:
    """The final record of a run, JSON. Node results come in the order of dbt's run results.

    Args:
        warnings: by step (`repetitions`).
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


def bare_final(finished: Finished) -> bytes:
    """The final record of a run that never began."""
    return encode(FinalRecord(return_code=finished.return_code, error=finished.error))


def return_artifacts(ledger: Ledger, request: RunRequest, spec: RunSpec, target_path: str) -> None:
    """Put the files that dbt left in the target folder where a caller who cannot see them can get them."""
    target = Path(target_path or _target_path(spec))
    if request.place and request.place == folder_identity(os.path.join(spec.project_dir, target)):
        return
    for name in ARTIFACTS:
        path = target / name
        try:
            if path.stat().st_mtime >= spec.started_at - 1:
                ledger.store_artifact(spec.run_id, name, zlib.compress(path.read_bytes(), 6))
        except OSError:
            continue  # not every command leaves every file


def _target_path(spec: RunSpec) -> str:
    """Where a whole command leaves its artifacts, as its arguments and environment say."""
    for position, arg in enumerate(spec.args):
        if arg == "--target-path" and position + 1 < len(spec.args):
            return os.path.join(spec.cwd, spec.args[position + 1])
        if arg.startswith("--target-path="):
            return os.path.join(spec.cwd, arg.partition("=")[2])
    return os.path.join(spec.project_dir, spec.env.get("DBT_TARGET_PATH", "target"))
