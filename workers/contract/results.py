"""What comes back: attempts, nodes, runs, and the states they pass through."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from workers.contract.errors import ErrorInfo

# States of a step in the ledger.
BLOCKED: Final = "blocked"  # waits for parents
READY: Final = "ready"  # may be handed out
QUEUED: Final = "queued"  # a message for it was handed out
RUNNING: Final = "running"  # claimed: it has an owner, a fence and a lease
RETRYING: Final = "retrying"  # failed for a passing reason, waits for its next attempt
WAITING: Final = (
    "waiting"  # for its relation, which another run is writing, or for a file that another program has open
)
DONE: Final = "done"  # finished, whatever the result
STEP_STATES: Final = frozenset({BLOCKED, READY, QUEUED, RUNNING, RETRYING, WAITING, DONE})

# States of a run in the ledger.
RUN_ACTIVE: Final = "active"
RUN_STOPPING: Final = "stopping"  # fail-fast or cancel: nothing further starts but the close
RUN_SUCCEEDED: Final = "succeeded"
RUN_FAILED: Final = "failed"
RUN_CANCELLED: Final = "cancelled"
RUN_TERMINAL: Final = frozenset({RUN_SUCCEEDED, RUN_FAILED, RUN_CANCELLED})

# dbt's statuses of a node (dbt.artifacts.schemas.results.NodeStatus).
GOOD_STATUSES: Final = frozenset({"success", "pass", "warn", "no-op"})
BAD_STATUSES: Final = frozenset({"error", "fail", "skipped", "partial success", "runtime error"})


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a step. Times are seconds since the epoch, UTC."""

    step: str
    number: int
    worker: str
    started_at: float
    finished_at: float
    status: str
    error: ErrorInfo | None = None


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dbt node.

    Attributes:
        unique_id: dbt's, ``model.project.name``.
        status: dbt's word: success, error, skipped, pass, fail, warn, no-op, partial success.
        message: dbt's, ``OK`` or the error text.
        execution_time: seconds, as dbt counts them (0 for a skipped node).
        failures: failing rows of a test.
        started_at, finished_at: seconds since the epoch, UTC; 0 when it never ran.
        worker: who executed it, ``host:pid``.
        run_result: the node's entry in dbt's run_results.json.
        error: classified, or None.
        attempts: every execution, in order.
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
        """Whether dbt counts the node as good (success, pass, warn, no-op)."""
        return self.status in GOOD_STATUSES


class DbtResult(msgspec.Struct, kw_only=True):
    """What a dbt command gave.

    Attributes:
        success: as dbt's exit code 0 means it.
        stdout: dbt's console lines, in order.
        stderr: what the run's code wrote on stderr, then why the run failed, if it did; usually empty.
        execution_time: seconds from submit to result.
        return_code: dbt's: 0 good, 1 a node failed or was skipped, 2 dbt could not do it.
        command: the whole command, ``["dbt", "run", …]``.
        nodes: one entry a node, in the order of dbt's run results.
        error: the first error, classified, or None.
        run_results: dbt's run_results.json as a dict, or None where the command writes none.
        attempts: every execution of the steps around the nodes, in order: plan, start and close, or
            a command that runs whole. Those of a node are in its `NodeResult`.
        warnings: what dbt-relay has to say about a run that went on after a worker was lost: hooks, or a
            command, that may have been executed twice. Also in `stderr`.
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
