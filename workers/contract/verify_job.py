"""What ``dbt-relay verify`` tells the program that compares (`workers.verify`)."""

from __future__ import annotations

import msgspec


class VerifyCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One dbt command of the sequence.

    Attributes:
        args: dbt's arguments, as they are to be given in a copy of the project.
        target_path: the folder of its artifacts, relative to the project.
        reads_profile: whether dbt reads the profile for it.
    """

    args: tuple[str, ...]
    target_path: str = "target"
    reads_profile: bool = True


class VerifyJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to compare, and how. JSON, on the standard input of ``python -m workers.verify``.

    Attributes:
        project_dir: absolute path of the project.
        commands: in their order, at least one.
        broker_url: where dbt-relay's commands go; empty: plain dbt runs on both copies.
        workers: worker processes that listen there, for the report.
        measured: columns that are compared by what stands in `workers.verify.compare.Allowance`.
        keep: leave the copies where they are.
    """

    project_dir: str
    commands: tuple[VerifyCommand, ...]
    broker_url: str = ""
    workers: int = 0
    measured: tuple[str, ...] = ()
    keep: bool = False


EQUAL, DIFFERENT, REFUSED = 0, 1, 2
"""How a comparison ends: exit codes."""
