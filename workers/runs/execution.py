"""Calls the engine under the lease of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from workers.runs.runtime import Runtime
from workers.supervision.time_limits import NodeLimits

Result = TypeVar("Result")


def call_engine(
    runtime: Runtime,
    call: Callable[[], Result],
    limits: NodeLimits | None = None,
    *,
    fail_fast: bool = False,
) -> Result:
    """Call the engine where it can be interrupted. Its log lines are on Redis when this returns or raises.

    Args:
        limits: of the node that it executes.
        fail_fast: whether the node's failure ends its run.

    Raises:
        StepInterrupted: this process must not continue the step.
        CommandFailedError: dbt gave up the command (exit code 2).
    """
    try:
        with runtime.leases.interruptible(limits, owner=runtime.owner, fail_fast=fail_fast):
            return call()
    finally:
        runtime.progress.flush()
