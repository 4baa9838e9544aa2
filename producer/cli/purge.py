"""``dbt-relay purge``: removes ended runs before they expire, and keys that dead workers left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from producer.cli import broker
from producer.cli.known_runs import find_run
from producer.following.kept_runs import remove_kept
from producer.usage_errors import usage_error

if TYPE_CHECKING:
    from workers.contract.purge import Purged

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
EXIT_LEFT_ALONE = 1
"""A named run is active."""


class Age(click.ParamType):  # type: ignore[type-arg]
    """``90s``, ``30m``, ``12h``, ``7d``, ``2w``, converted to seconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert to seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not an age such as 90s, 30m, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


@click.command("purge", help=broker.about("purge"))
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--older-than", type=Age(), help="Runs that ended at least so long ago: 90s, 30m, 12h, 7d, 2w.")
@click.option("--all", "every", is_flag=True, help="All ended runs.")
@click.option("--force", is_flag=True, help="With RUN: also an active run. It is cancelled first.")
@click.option(
    "--wait", type=click.FloatRange(0), default=15.0, show_default=True,
    help="Seconds to wait for the end of cancelled runs.",
)  # fmt: skip
def purge(runs: tuple[str, ...], older_than: float | None, every: bool, force: bool, wait: float) -> int:
    from workers.contract.purge import Purged

    if sum((bool(runs), older_than is not None, every)) > 1:
        raise usage_error("ambiguous_purge", "Give runs, or --older-than, or --all: one of them.")
    if force and not runs:
        raise usage_error("force_without_run", "--force needs the names of runs.")
    client = broker.client_if_any()
    named = sorted({find_run(client, run, one_off=True) for run in runs}) if runs else None
    age = 0.0 if every else older_than
    removed, recent = remove_kept(os.environ, older_than=age, named=named)
    if client is None and not removed and not recent:
        client = broker.client()  # raises the error for a missing broker
    done = Purged() if client is None else client.purge(older_than=age, named=named, force=force, wait=wait)
    done.recent = sorted({*done.recent, *recent})
    for line in _report(done, removed, named or ()):
        click.echo(line)
    return EXIT_LEFT_ALONE if done.live else 0


def _report(done: Purged, one_off: Sequence[str], named: Sequence[str]) -> Iterator[str]:
    for run_id in done.live:
        yield f"{run_id} is active and was not removed. --force cancels and removes it."
    for run_id in done.forced:
        yield f"{run_id} did not end after its cancel; it was removed while workers were executing it."
    for run_id in named:
        if run_id not in {*done.runs, *done.forced, *done.live, *one_off}:
            yield f"{run_id} is not known, or no longer."
    counts = {
        "run": len(done.runs) + len(done.forced), "one-off run": len(one_off), "dead worker": len(done.workers),
        "orphaned lease": done.watches, "orphaned lock": done.locks, "orphaned key": done.orphans,
        "unreadable value": done.unreadable,
    }  # fmt: skip
    found = [f"{number} {what}{'' if number == 1 else 's'}" for what, number in counts.items() if number]
    yield f"Removed {', '.join(found) or 'nothing'}."
    if done.recent:
        yield f"Kept ended runs: {len(done.recent)}. --older-than 1h removes those that ended earlier, --all all."
