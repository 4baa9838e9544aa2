"""The job that ``dbt-relay verify`` gives to the program that compares both sides (`workers.verify`)."""

from __future__ import annotations

import msgspec


class VerifyCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One dbt command to compare.

    Attributes:
        args: dbt's arguments in a copy of the project.
        target_path: dbt's target folder, relative to the project.
        reads_profile: whether the command reads the profile.
    """

    args: tuple[str, ...]
    target_path: str = "target"
    reads_profile: bool = True


class VerifyJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commands to compare, and how. JSON on the standard input of ``python -m workers.verify``.

    Attributes:
        project_dir: absolute path of the project.
        commands: at least one command, in order.
        broker_url: broker of dbt-relay's side; empty: plain dbt is executed on both copies.
        workers: number of worker processes of this broker, for the report.
        measured: columns that are compared as `workers.verify.compare.Allowance` says.
        keep: do not remove the copies.
    """

    project_dir: str
    commands: tuple[VerifyCommand, ...]
    broker_url: str = ""
    workers: int = 0
    measured: tuple[str, ...] = ()
    keep: bool = False


EQUAL, DIFFERENT, REFUSED = 0, 1, 2
"""Exit codes of the comparison."""
