"""How the execution of a step ended: plain data, which says nothing about what follows (`decision`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workers.contract.errors import ErrorInfo
from workers.contract.results import Attempt
from workers.engine.interface import Finished, StepOutcome, StepResult
from workers.ledger.records import StagedNode
from workers.supervision.time_limits import Overrun

Facts = Mapping[str, str | int | float]
"""Fields of a run in the ledger."""


@dataclass(frozen=True)
class NotExecutable:
    """This worker cannot execute the step: it does not have the project of the run."""

    error: ErrorInfo


@dataclass(frozen=True)
class FileLocked:
    """Another program has a file of the run's warehouse open; dbt was not called.

    Attributes:
        holder: the file, and which program has it open.
    """

    error: ErrorInfo
    holder: str


@dataclass(frozen=True)
class Planned:
    """dbt selected nodes.

    Attributes:
        roots: the nodes that wait for the start step alone.
        facts: what every later step needs to know.
    """

    nodes: tuple[StagedNode, ...]
    roots: tuple[str, ...]
    facts: Facts


@dataclass(frozen=True)
class Rerouted:
    """The step has to be executed another way: as a whole command, or by a session.

    Attributes:
        facts: what tells the next execution so.
        why: for the answer of the task.
    """

    facts: Facts
    why: Mapping[str, str]


@dataclass(frozen=True)
class StepEnded:
    """A start step or a node came to its end.

    Attributes:
        facts: what every later step needs to know.
        overrun: where it took longer than its time limit.
        interrupted: why it was to be interrupted meanwhile (`workers.supervision.lease_renewal`), or None.
    """

    outcome: StepOutcome
    facts: Facts | None = None
    overrun: Overrun | None = None
    interrupted: str | None = None


@dataclass(frozen=True)
class RunEnded:
    """The run, or its command, came to its end.

    Attributes:
        results: of every node that has one.
        gave_up: whether dbt gave up the command in this step (exit code 2).
        stop: why the run was stopped, where it was.
        attempts: those that ended before, where they were read already.
        interrupted: why the step was to be interrupted meanwhile, or None.
    """

    finished: Finished
    results: list[StepResult]
    gave_up: bool = False
    stop: str | None = None
    attempts: list[Attempt] | None = None
    interrupted: str | None = None


@dataclass(frozen=True)
class Interrupted:
    """The step was interrupted in the middle. `why`: `LOST`, `STOP` or `DRAIN`."""

    why: str


Outcome = NotExecutable | FileLocked | Planned | Rerouted | StepEnded | RunEnded | Interrupted
