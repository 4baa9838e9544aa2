"""Suggested fixes for errors of the run, its workers and its broker. Supervision and runs use the functions, too."""

from __future__ import annotations

import signal
from typing import Final

from workers.contract.errors.diagnosis import Fix

CANCELLED: Final = "Submit it again, or run `dbt-relay retry` for what did not finish."

_MORE_MEMORY: Final = (
    "give its worker more memory (the container's limit), let it run fewer nodes at once (--concurrency), bound what "
    "one query takes (DuckDB: `memory_limit` under `settings` in profiles.yml), or make the model smaller."
)


def faster_or_longer(where: str = "it", setting: str = "time_limit") -> str:
    """Return the fix for a node that passed a time limit.

    Args:
        where: the node, or its place.
        setting: ``time_limit`` or ``soft_time_limit``.
    """
    return (
        f"Make {where} faster, or raise its limit: `meta: {{dbt_relay: {{{setting}: …}}}}` in its config, or "
        f"DBT_RELAY_NODE_{setting.upper()} for every node; 0 is unlimited."
    )


def later_deadline(run_id: str = "") -> str:
    """Return the fix for a run that passed its deadline."""
    return (
        "Give it more time (DBT_RELAY_RUN_DEADLINE, or Limits(deadline=…) from Python); "
        f"`dbt-relay retry{run_id and ' ' + run_id}` runs what did not finish."
    )


def worker_lost(exit_code: int | None = None, *, ran_out: bool = False) -> str:
    """Return the fix for a step whose worker processes ended.

    Args:
        exit_code: exit status of the last one, or minus its signal; None: unknown.
        ran_out: whether its memory is known to have run out.
    """
    if exit_code is None:
        fix = (
            "Its worker stopped responding: look for the reason in the kernel's log (out of memory) and in the "
            f"worker's log. If memory ran out, {_MORE_MEMORY}"
        )
    elif exit_code >= 0:
        fix = (
            "Something that it calls ends the process (sys.exit, os._exit): look for that in the model's "
            "Python code and packages, and in the worker's log."
        )
    elif -exit_code != signal.SIGKILL:
        fix = (
            "It crashed in native code: in the warehouse's driver, or in a package that a Python model uses. Install "
            "another version of it. With PYTHONFAULTHANDLER=1 in its environment the worker's log shows where."
        )
    elif ran_out:
        fix = f"Memory ran out: {_MORE_MEMORY}"
    else:
        fix = (
            "It was killed. Usually the kernel does that when memory runs out, and its log says so. "
            f"If so, {_MORE_MEMORY}"
        )
    return f"{fix} DBT_RELAY_MAX_LOSSES sets how often a node is tried that ends its worker."


RUN_FIXES: Final[dict[str, Fix]] = {
    "time_limit": lambda d: faster_or_longer(d.where or "it"),
    "deadline": later_deadline(),
    "process_killed": (
        "Usually the kernel killed the process because memory ran out: read the kernel's log, give it more memory or "
        "run fewer nodes at once."
    ),
    "cancelled": CANCELLED,
    "fail_fast": "Fix the node that failed first, then run `dbt-relay retry`.",
    "worker_lost": worker_lost(),
    "broker_unavailable": "Start the broker, or correct DBT_RELAY_BROKER_URL.",
    "invalid_message": "Install the same dbt-relay release on producers and workers.",
    "internal": (
        "Run it again with --debug and read the lines before the error. dbt-relay does not recognise the error; "
        "it looks like neither your SQL nor your data."
    ),
}
