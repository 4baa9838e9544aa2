"""What the engine is told about a run, and what it answers. Plain data; no dbt types."""

from __future__ import annotations

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
    """A run as one process needs to know it.

    Attributes:
        args: dbt's arguments.
        cwd, project_dir: absolute paths on this machine.
        env: the whole environment that dbt is to see.
        invocation_id: dbt's, one for the whole run.
        started_at: ``run_started_at``, seconds since the epoch, UTC.
        debug: whether dbt events below console level are published too.
        file_log: whether the records of dbt's log file go to the caller, who writes it.
        withheld: names of the caller's environment whose values did not come with the run.
        surroundings: what else dbt's process would inherit from its caller.
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
    """What a run takes over from the earlier one that it repeats in part (dbt.task.retry.RetryTask).

    Attributes:
        given: flags of the earlier run, of which dbt keeps some (`retry.arguments`).
        batches: results by batch of microbatch models of which some batches failed.
        started_at: when the earlier run began, ISO 8601, UTC: batches are counted up to then.
    """

    given: dict[str, Any]
    batches: dict[str, dict[str, Any]] = {}
    started_at: str = ""


class OwnLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits that the project gives a node, in seconds; 0 is without a limit, None is the run's."""

    soft_time_limit: Seconds | None = None
    time_limit: Seconds | None = None


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan learned and every later step needs.

    Attributes:
        context_key: which parsed manifest the run uses.
        selected: dbt's selected_resources.
        flattened: the planned nodes in dbt's order.
        total: dbt's count of nodes (``n of total``).
        deprecations: what dbt has warned of while planning, with how often.
        began: when the nodes began, seconds since the epoch, UTC (dbt's elapsed time counts from it).
        retry: where the run repeats part of an earlier one.
        limits: of nodes that have their own.
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
    """One node of a plan; `parents` and `children` are planned nodes too; `lock` is the name of the relation
    that it writes (`relations.RelationLocks`), empty where it writes none or nobody else can."""

    unique_id: str
    name: str
    resource_type: str
    priority: int
    parents: tuple[str, ...]
    children: tuple[str, ...]
    ephemeral: bool = False
    lock: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will do.

    Attributes:
        threads: how many nodes at once (dbt's ``--threads``).
        warehouse: the name of the single-process warehouse it needs, or None where many may write.
        whole: the run cannot be split and must be executed as one command (why, or None).
    """

    facts: RunFacts
    nodes: tuple[PlannedNode, ...]
    threads: int
    warehouse: str | None
    whole: str | None = None


class StepResult(msgspec.Struct, kw_only=True):
    """What a start step or a node gave. Stored in the ledger; read by skips and by the close.

    Attributes:
        status: dbt's word.
        result: dbt's RunResult without its node.
        patch: what compiling changed on the node (compiled_code and the like).
        also: the same for ephemeral models that were compiled with it.
        node: the whole node where the manifest has none like it (a unit test's query).
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
    """A step's result and what it means for the run.

    Attributes:
        blocks: descendants are to be skipped.
        stop: ``fail_fast`` when the run has to end early.
        cache: changes of the relation cache, JSON each.
        fatal: dbt gave the whole command up (exit code 2).
    """

    result: StepResult
    blocks: bool = False
    stop: str | None = None
    cache: tuple[str, ...] = ()
    fatal: bool = False


class Finished(msgspec.Struct, kw_only=True):
    """How a whole run or command ended: the last thing a run stores.

    Attributes:
        return_code: dbt's: 0, 1 or 2.
        results: one entry a node and hook, in dbt's order.
        run_results: dbt's artifact, or None where the command writes none.
        target_path: where artifacts were left, where the engine knows.
    """

    return_code: int
    target_path: str = ""
    results: list[StepResult] = []
    run_results: dict[str, Any] | None = None
    error: ErrorInfo | None = None


class SharedContexts(Protocol):
    """Where processes share parsed manifests. Loss is harmless: the project is parsed again."""

    def load(self, key: str) -> bytes | None:
        """The packed manifest of a context, or None."""

    def save(self, key: str, packed: bytes) -> None:
        """Keep a packed manifest for a while."""

    def index(self, family: str) -> bytes | None:
        """What the last parse of a family of contexts read, or None."""

    def save_index(self, family: str, index: bytes) -> None:
        """Remember what a parse read."""


def encode(value: Any) -> bytes:
    """JSON of the engine's answers. dbt's own string types become strings; bytes that are not UTF-8, escapes."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except UnicodeEncodeError:  # of an environment value
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
