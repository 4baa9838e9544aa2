"""What the ledger's moves accept and return."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

import msgspec


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker process ended, as its parent process observed it.

    Attributes:
        code: exit status, or the negative signal number.
        peak: highest memory use that was measured, bytes; 0: unknown.
        limit: memory that the worker may use, bytes.
        oom: whether the kernel's out-of-memory killer ended a process of the machine at that time.
    """

    code: int
    peak: int = 0
    limit: int = 0
    oom: bool = False

    @property
    def reason(self) -> str:
        """``SIGKILL``, or ``exit status 3``."""
        if self.code >= 0:
            return f"exit status {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A step that this process may execute.

    Attributes:
        fence: number that every later move of the step must present.
        tries: number of this execution, from 1.
        losses: how many executions ended because their worker was lost.
        index: dbt's number of the node in the run (``3 of 40``); 0 for a node that dbt does not number.
        handed: how many executions a stopping worker handed back.
        skip: whether the node is skipped because a parent failed.
        cause: the step whose failure causes the skip.
        busy: the run that writes the node's relation, if the node must be refused for that reason.
        stale: whether another run wrote the node's relation last, so that this run's cache of it may be wrong.
        stopping: whether the run is being stopped (its close and its first step still execute).
        grace: time limit in seconds from the claim, for a node that was due when another node ended the run early;
            0: no limit.
        lost_leases: for the close: whether an execution of the run lost its lease and may still be alive.
        sure_until: time of `lease_clock` until which no other worker can claim the step.
        died: how the process of the last execution ended, if its parent process recorded it.
        orphaned: whether the run is being stopped and no worker has the dbt release that planned it: it ends without dbt.
        publish: other steps whose messages the caller must send.
    """

    run_id: str
    step: str
    fence: int
    tries: int
    losses: int
    handed: int = 0
    index: int
    skip: bool
    cause: str
    stopping: bool
    busy: str = ""
    stale: bool = False
    died: Death | None = None
    grace: float = 0.0
    lost_leases: bool = False
    orphaned: bool = False
    sure_until: float = 0.0
    publish: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a claim was refused, and the steps whose messages the caller must send."""

    reason: str
    publish: tuple[str, ...] = ()


class Move(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What finishing a step changes in its run.

    Attributes:
        word: the status that is published; for a node, dbt's status.
        blocks: whether all descendants are skipped.
        stop: ``fail_fast`` ends the run early: only its close starts after that.
        facts: fields of the run that later steps need.
        cache: changes of dbt's relation cache, one JSON document each.
        nodes: for the plan: number of nodes that it staged.
        final: the run's result as JSON; it ends the run.
        final_state: the run's last state; set with `final`.
    """

    word: str
    blocks: bool = False
    stop: str | None = None
    facts: Mapping[str, str | int | float] | None = None
    cache: tuple[str, ...] = ()
    nodes: int = 0
    final: str | None = None
    final_state: str | None = None


class StagedNode(msgspec.Struct, frozen=True):
    """A planned node.

    Attributes:
        parents: number of steps that it waits for, including the start step.
        lock: name of the relation that it writes (`engine.warehouse.relation_names`); empty if it writes none.
    """

    id: str
    priority: int
    parents: int
    children: tuple[str, ...]
    ephemeral: bool = False
    lock: str = ""


def lease_clock() -> float:
    """Seconds of a monotonic clock that includes the time in which the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class FenceLostError(Exception):
    """Another worker has the step, or its run has ended: the result is not recorded."""
