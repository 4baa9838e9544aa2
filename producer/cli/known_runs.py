"""Finds runs by the names that users type: of the broker, and of private stacks that have ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from producer.cli import broker
from producer.following.kept_runs import kept_run, kept_summaries
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.keys import is_run_id

if TYPE_CHECKING:
    from producer.client import RelayClient, RunSummary

LATEST = "latest"


def known_runs(client: RelayClient | None) -> list[RunSummary]:
    """List the runs of the broker, where there is one, and kept one-off runs; the newest first."""
    runs = {run.run_id: run for run in (*kept_summaries(os.environ), *(client.runs() if client else ()))}
    return [runs[run_id] for run_id in sorted(runs, reverse=True)]


def is_kept(run_id: str) -> bool:
    """Whether ``dbt-relay result`` can find the run of a command that has just ended."""
    return broker.client_if_any() is not None or kept_run(os.environ, run_id) is not None


def find_run(client: RelayClient | None, text: str, *, one_off: bool = False) -> str:
    """Return the id of a run.

    Args:
        text: a run id, the beginning of one, or ``latest``.
        one_off: whether kept one-off runs count too.

    Raises:
        DbtUsageError: there is no such run, or more than one; the text has the nearest ids.
    """
    if is_run_id(text):
        return text
    from producer.client import UNREADABLE

    known = known_runs(client) if one_off else client.runs() if client else []
    ids = [run.run_id for run in known]
    readable = [run.run_id for run in known if run.state != UNREADABLE]
    found = readable[:1] if text == LATEST else [run_id for run_id in ids if run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if not ids:
        raise usage_error("no_such_run", f"There is no run {text!r}: no runs are known.")
    if found:
        raise usage_error(
            "ambiguous_run", f"{len(found)} runs begin with {text!r}.", f"Such as {found[0]} and {found[1]}."
        )
    hint = did_you_mean(text, ids)
    raise usage_error(
        "no_such_run",
        f"There is no run {text!r}.{hint}",
        f"`dbt-relay runs` lists them; {LATEST!r} is the newest.",
    )
