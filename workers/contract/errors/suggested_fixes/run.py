"""Suggested fixes for errors of the run, its workers and its broker."""

from __future__ import annotations

from typing import Final

from workers.contract.errors.diagnosis import Fix

RUN_FIXES: Final[dict[str, Fix]] = {
    "time_limit": lambda d: f"Make {d.where or 'it'} faster, or raise the time limit of the workers.",
    "deadline": "Raise the deadline of the run; `dbt-relay retry` runs what did not finish.",
    "process_killed": (
        "Usually the kernel killed the process because memory ran out: read the kernel's log, give it more memory or "
        "run fewer nodes at once."
    ),
    "cancelled": "Submit it again, or run `dbt-relay retry` for what did not finish.",
    "fail_fast": "Fix the node that failed first, then run `dbt-relay retry`.",
    "worker_lost": lambda d: (
        f"The worker process died each time it executed {d.where or 'this'}: look for it in the kernel's log (out of "
        "memory) and in the worker's log; give it more memory or make the node smaller."
    ),
    "broker_unavailable": "Start the broker, or correct DBT_RELAY_BROKER_URL.",
    "invalid_message": "Install the same dbt-relay release on producers and workers.",
    "internal": (
        "Run it again with --debug and read the lines before the error. dbt-relay does not recognise the error; "
        "it looks like neither your SQL nor your data."
    ),
}
