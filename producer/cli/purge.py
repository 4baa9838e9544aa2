"""``dbt-relay purge``: make room in Redis before the time of ended runs is up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from producer.cli import broker
from producer.cli.known_runs import find_run
from producer.usage_errors import usage_error

if TYPE_CHECKING:
    from workers.contract.purge import Purged

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
EXIT_LEFT_ALONE = 1
"""A run that was named is still going."""


class Age(click.ParamType):  # type: ignore[type-arg]
    """``90s``, ``30m``, ``12h``, ``7d``, ``2w``, as seconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not an age such as 90s, 30m, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


@click.command("purge", help=broker.about("purge"))
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--older-than", type=Age(), help="Ended runs that ended so long ago: 90s, 30m, 12h, 7d, 2w.")
@click.option("--all", "every", is_flag=True, help="All ended runs.")
@click.option(
    "--force", is_flag=True, help="With RUN: also a run that is still going; it is cancelled first."
)
@click.option(
    "--wait", type=click.FloatRange(0), default=15.0, show_default=True,
    help="Seconds that a cancelled run has to end by itself.",
)  # fmt: skip
def purge(runs: tuple[str, ...], older_than: float | None, every: bool, force: bool, wait: float) -> int:
    if sum((bool(runs), older_than is not None, every)) > 1:
        raise usage_error("ambiguous_purge", "Give runs, or --older-than, or --all: one of them.")
    if force and not runs:
        raise usage_error("force_without_run", "--force needs the runs that it is for.")
    client = broker.client()
    named = sorted({find_run(client, run) for run in runs})
    done = client.purge(
        older_than=0.0 if every else older_than, named=named if runs else None, force=force, wait=wait
    )
    for line in _told(done, named):
        click.echo(line)
    return EXIT_LEFT_ALONE if done.live else 0


def _told(done: Purged, named: Sequence[str]) -> Iterator[str]:
    for run_id in done.live:
        yield f"{run_id} is still going: left alone. --force cancels and removes it."
    for run_id in done.forced:
        yield f"{run_id} did not end when it was cancelled; what workers still hold of it is dropped."
    for run_id in named:
        if run_id not in {*done.runs, *done.forced, *done.live}:
            yield f"{run_id} is not known (any more)."
    counts = {
        "run": len(done.runs) + len(done.forced), "dead worker": len(done.workers),
        "orphaned lease": done.watches, "orphaned lock": done.locks, "orphaned key": done.orphans,
    }  # fmt: skip
    found = [f"{number} {what}{'' if number == 1 else 's'}" for what, number in counts.items() if number]
    yield f"Removed {', '.join(found) or 'nothing'}."
    if done.recent:
        yield f"Kept ended runs: {len(done.recent)}. --older-than 1h removes some of them, --all all."
