"""Input and output of the engine as plain data, without dbt's types."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from workers.contract.credentials import escaped
from workers.contract.environment import Withheld
from workers.contract.errors import ErrorInfo
from workers.contract.events import Event
from workers.contract.messages import Seconds
from workers.contract.process_attributes import ProcessAttributes

OnEvent = Callable[[Event], None]


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as the engine needs it.

    Attributes:
        args: dbt's arguments.
        cwd, project_dir: absolute paths on this machine.
        env: the whole environment of dbt.
        invocation_id: dbt's id, one for the whole run.
        started_at: ``run_started_at``, seconds since the epoch, UTC.
        debug: whether dbt events below console level are published too.
        file_log: whether records of dbt's log file are published; the producer writes the file.
        required_models: names of models that the project must have.
        withheld: names of the caller's environment variables whose values are not in `env`.
        surroundings: other attributes that a dbt process would inherit from its caller.
    """

    run_id: str
    args: tuple[str, ...]
    cwd: str
    project_dir: str
    env: Mapping[str, str]
    invocation_id: str
    started_at: float
    debug: bool = False
    file_log: bool = False
    required_models: tuple[str, ...] = ()
    withheld: Withheld = Withheld()
    surroundings: ProcessAttributes = ProcessAttributes()


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Data of the earlier run that ``dbt retry`` reuses (dbt.task.retry.RetryTask).

    Attributes:
        given: flags of the earlier run; dbt keeps some of them (`execution.retry.arguments`).
        batches: dbt's batch results of each microbatch model with failed batches, by unique id.
        started_at: start of the earlier run, ISO 8601, UTC. Its last batch ends at that time.
    """

    given: dict[str, Any]
    batches: dict[str, dict[str, Any]] = {}
    started_at: str = ""


class OwnLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits that the project sets for a node, in seconds. 0: no limit; None: the run's limit."""

    soft_time_limit: Seconds | None = None
    time_limit: Seconds | None = None


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the plan that every later step needs.

    Attributes:
        context_key: key of the parsed project.
        selected: dbt's selected_resources.
        flattened: the planned nodes in dbt's order.
        total: dbt's count of nodes (``n of total``).
        deprecations: how often dbt warned of each deprecation during the plan.
        began: start of the first node, seconds since the epoch, UTC. dbt's elapsed time starts here.
        retry: data of the earlier run; None unless the command is ``dbt retry``.
        limits: time limits of nodes that have their own, by unique id.
        fail_fast: whether the first failure ends the run.
    """

    context_key: str
    selected: tuple[str, ...]
    flattened: tuple[str, ...]
    total: int
    began: float = 0.0
    deprecations: dict[str, int] = {}
    retry: Retry | None = None
    limits: dict[str, OwnLimits] = {}
    fail_fast: bool = False


class PlannedNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a plan.

    Attributes:
        priority: dbt's score. Of nodes that become ready together, the one with the lowest score is released first.
        parents, children: unique ids of other nodes of the plan.
        lock: name of the relation that it writes (`warehouse.relation_names.RelationLocks`). Empty if it writes none,
            or if no other run can write it.
    """

    unique_id: str
    name: str
    resource_type: str
    priority: int
    parents: tuple[str, ...]
    children: tuple[str, ...]
    ephemeral: bool = False
    lock: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a run, and how to execute them.

    Attributes:
        threads: maximum number of nodes that execute at once (dbt's ``--threads``).
        warehouse: name of the single-process warehouse that the run needs; None if many processes may write.
        whole: why the run must be executed as one command; None if each node can be a step.
    """

    facts: RunFacts
    nodes: tuple[PlannedNode, ...]
    threads: int
    warehouse: str | None
    whole: str | None = None


class StepResult(msgspec.Struct, kw_only=True):
    """The result of a start step or a node. The ledger stores it; skipped nodes and the close step read it.

    Attributes:
        status: dbt's status.
        result: dbt's RunResult without its node.
        patch: fields of the node that compiling changed, such as ``compiled_code``.
        also: the same for each ephemeral model that was compiled with the node, by unique id.
        node: the whole node, if the manifest does not contain it (the query of a unit test).
        hooks: results of hooks, for the start step.
    """

    unique_id: str
    status: str
    name: str = ""
    resource_type: str = ""
    ephemeral: bool = False
    message: str | None = None
    result: dict[str, Any] = {}
    patch: dict[str, Any] = {}
    also: dict[str, dict[str, Any]] = {}
    node: dict[str, Any] | None = None
    hooks: list[dict[str, Any]] = []
    error: ErrorInfo | None = None
    worker: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0


class StepOutcome(msgspec.Struct, kw_only=True):
    """A step's result, and its effects on the run.

    Attributes:
        blocks: whether descendants are skipped.
        stop: ``fail_fast`` if the run has to end early, else None.
        cache: changes of the relation cache and of template state, each as JSON.
        fatal: whether dbt aborted the whole command (exit code 2).
    """

    result: StepResult
    blocks: bool = False
    stop: str | None = None
    cache: tuple[str, ...] = ()
    fatal: bool = False


def failed_node(
    unique_id: str, error: ErrorInfo, *, worker: str, began: float, execution_time: float = 0.0
) -> StepOutcome:
    """The outcome of a node that failed outside dbt. Its descendants are skipped.

    Args:
        worker: the process that executed it, ``host:pid``.
        began: start of the node, seconds since the epoch, UTC. Its end is the current time.
        execution_time: seconds, for dbt's run results.
    """
    kind, _, rest = unique_id.partition(".")
    plain = {
        "status": "error", "timing": [], "thread_id": "", "execution_time": execution_time,
        "message": error.message, "adapter_response": {}, "failures": None, "batch_results": None,
    }  # fmt: skip
    result = StepResult(
        unique_id=unique_id, status="error", name=rest.rpartition(".")[2], resource_type=kind,
        message=error.message, result=plain, error=error, worker=worker, started_at=began,
        finished_at=time.time(),
    )  # fmt: skip
    return StepOutcome(result=result, blocks=True)


class Finished(msgspec.Struct, kw_only=True):
    """The end of a run or command.

    Attributes:
        return_code: dbt's exit code: 0, 1 or 2.
        results: result of each node and hook, in dbt's order.
        run_results: content of run_results.json; None if the command writes none.
        target_path: folder of the artifacts; empty if unknown.
    """

    return_code: int
    target_path: str = ""
    results: list[StepResult] = []
    run_results: dict[str, Any] | None = None
    error: ErrorInfo | None = None


class SharedContexts(Protocol):
    """Store in which processes share parsed manifests. If an entry is lost, the project is parsed again."""

    def load(self, key: str) -> bytes | None:
        """Return the packed manifest of a context, or None."""

    def save(self, key: str, packed: bytes) -> None:
        """Store a packed manifest. The store may drop it."""

    def index(self, family: str) -> bytes | None:
        """Return the record of what the last parse of a family of contexts read, or None."""

    def save_index(self, family: str, index: bytes) -> None:
        """Store the record of what a parse of the family read."""


def encode(value: Any) -> bytes:
    """Encode output of the engine as JSON. String types of dbt become strings; bytes that are not UTF-8 are escaped."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except UnicodeEncodeError:  # an environment value that is not UTF-8
        return msgspec.json.encode(_escaped(msgspec.to_builtins(value, enc_hook=_plain)))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {_escaped(name): _escaped(item) for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Decimal):
        return float(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")
