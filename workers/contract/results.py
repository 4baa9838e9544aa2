"""Results of runs, nodes and attempts, and the states of runs and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from workers.contract.errors import ErrorInfo

# States of a step in the ledger.
BLOCKED: Final = "blocked"  # waits for its parents
READY: Final = "ready"  # may be queued
QUEUED: Final = "queued"  # its message is on the queue
RUNNING: Final = "running"  # claimed: it has an owner, a fence and a lease
RETRYING: Final = "retrying"  # failed with a retryable error, waits for its next attempt
WAITING: Final = "waiting"  # until another run has written its relation, or another program has closed a file
DONE: Final = "done"  # finished, with any result
STEP_STATES: Final = frozenset({BLOCKED, READY, QUEUED, RUNNING, RETRYING, WAITING, DONE})

# States of a run in the ledger.
RUN_ACTIVE: Final = "active"
RUN_STOPPING: Final = "stopping"  # fail-fast or cancelled: only the close step still starts
RUN_SUCCEEDED: Final = "succeeded"
RUN_FAILED: Final = "failed"
RUN_CANCELLED: Final = "cancelled"
RUN_TERMINAL: Final = frozenset({RUN_SUCCEEDED, RUN_FAILED, RUN_CANCELLED})

# dbt's statuses of a node (dbt.artifacts.schemas.results.NodeStatus).
GOOD_STATUSES: Final = frozenset({"success", "pass", "warn", "no-op"})
BAD_STATUSES: Final = frozenset({"error", "fail", "skipped", "partial success", "runtime error"})


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to execute a step. Times are seconds since the epoch, UTC."""

    step: str
    number: int
    worker: str
    started_at: float
    finished_at: float
    status: str
    error: ErrorInfo | None = None


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one dbt node.

    Attributes:
        unique_id: dbt's unique id, ``model.project.name``.
        status: dbt's status: success, error, skipped, pass, fail, warn, no-op, partial success.
        message: dbt's message: ``OK`` or the error text.
        execution_time: seconds, as dbt measures them (0 for a skipped node).
        failures: number of failing rows of a test.
        started_at, finished_at: seconds since the epoch, UTC; 0 if it was not executed.
        worker: the worker process that executed it, ``host:pid``.
        run_result: the node's entry in dbt's run_results.json.
        error: the classified error, or None.
        attempts: every attempt, in order.
    """

    unique_id: str
    name: str
    resource_type: str
    status: str
    message: str | None = None
    execution_time: float = 0.0
    failures: int | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    worker: str = ""
    run_result: dict[str, Any] = {}
    error: ErrorInfo | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def success(self) -> bool:
        """Whether dbt counts the node as successful (success, pass, warn, no-op)."""
        return self.status in GOOD_STATUSES


@dataclass
class DbtResult:
    """The result of a dbt command.

    Attributes:
        success: whether `return_code` is 0.
        stdout: dbt's console lines, in order.
        stderr: what the run's code wrote on stderr, then why the run failed, if it did; usually empty.
        execution_time: seconds from submission to result.
        return_code: dbt's exit code: 0 success, 1 a node failed or was skipped, 2 the command failed.
        command: the whole command, ``["dbt", "run", …]``.
        run_id: the run's id.
        nodes: one result per node, in the order of dbt's run results.
        error: the first error, classified, or None.
        run_results: dbt's run_results.json as a dict, or None where the command writes none.
        attempts: every attempt of the steps that are not nodes, in order: plan, start and close, or a command that
            is executed as one task. The attempts of a node are in its `NodeResult`.
        warnings: after the loss of a worker: hooks, or a command, that may have been executed twice. Also in `stderr`.
    """

    success: bool
    stdout: str
    stderr: str
    execution_time: float
    return_code: int
    command: list[str]
    run_id: str = ""
    nodes: tuple[NodeResult, ...] = ()
    error: ErrorInfo | None = None
    run_results: dict[str, Any] | None = None
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()

    def asdict(self) -> dict[str, Any]:
        """Convert to dicts, lists and plain values, as in JSON. `dataclasses.asdict` would keep nodes, attempts and
        errors as objects."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
