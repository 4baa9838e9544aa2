"""What the ledger's moves accept and return."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

import msgspec


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker process ended, as its parent saw it.

    Attributes:
        code: exit status, or minus the signal.
        peak: the most memory that it was seen to have, bytes; 0: unknown.
        limit: what its worker may use, bytes.
        oom: whether the kernel ended some process of the machine for want of memory at that time.
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
        fence: what every later word about the step must show.
        tries: which execution this is, from 1.
        losses: how many executions ended with their worker.
        index: dbt's number of the node in the run (``3 of 40``), 0 where dbt gives none.
        handed: how many executions were handed back by a worker that was stopping.
        skip: whether the node is not to run because a parent failed.
        cause: the step whose failure makes it skip.
        busy: the run that writes the node's relation, where the node is to be refused for it.
        stale: whether another run wrote the node's relation last: what the run has cached of it may be wrong.
        stopping: whether the run is being stopped (the close and first steps still run then).
        grace: seconds that the node may take, from its claim, beside one that ended the run early; 0: as
            long as it wants.
        strays: for the close: whether any execution in the run lost its lease, and may be alive.
        sure_until: up to then, by `lease_clock`, nobody else can have been given the step.
        died: how the last execution's process ended, where its parent could say.
        orphaned: whether the run is being stopped and no worker has the dbt that planned it: it ends without dbt.
        publish: other steps whose messages have to be published now.
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
    strays: bool = False
    orphaned: bool = False
    sure_until: float = 0.0
    publish: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a claim was not granted, and steps that have to be published instead."""

    reason: str
    publish: tuple[str, ...] = ()


class Move(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What finishing a step does to its run.

    Attributes:
        word: the state that watchers see, dbt's status for a node.
        blocks: whether everything downstream is to be skipped.
        stop: ``fail_fast`` ends the run early: nothing further starts but the close.
        facts: fields of the run that later steps need.
        cache: changes of dbt's relation cache, JSON each.
        nodes: for the plan: how many nodes it staged.
        final: the run's result, JSON; ends the run.
        final_state: the run's last state, with `final`.
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
        parents: how many nodes it waits for, the start step included.
        lock: what stands for the relation that it writes (`engine.warehouse.relation_names`), empty where it writes none.
    """

    id: str
    priority: int
    parents: int
    children: tuple[str, ...]
    ephemeral: bool = False
    lock: str = ""


def lease_clock() -> float:
    """Seconds, by a clock of this machine that nobody sets and that goes on while it sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class FenceLostError(Exception):
    """The step belongs to somebody else by now, or its run has ended: what was done is not recorded."""
