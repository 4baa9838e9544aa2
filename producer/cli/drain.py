"""``dbt-relay drain``: asks workers to stop, and prints their progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from producer.cli import broker

if TYPE_CHECKING:
    from producer.client.drain import DrainProgress

EXIT_NOT_DRAINED = 1


@click.command("drain", help=broker.about("drain"))
@click.argument("workers", metavar="[WORKER]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All connected workers.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    help="Seconds for which running nodes may continue before they are requeued. Default: DBT_RELAY_DRAIN_SECONDS of the workers.",
)
@click.option(
    "--timeout", type=click.FloatRange(0),
    help="Seconds to wait for them; they continue to drain afterwards. Default: no limit.",
)  # fmt: skip
def drain(workers: tuple[str, ...], every: bool, grace: float | None, timeout: float | None) -> int:
    from producer.client import drain as draining

    client = broker.client()
    chosen = draining.choose(client.workers(), workers, every=every)
    if not chosen:
        click.echo("No worker is connected.")
        return 0
    progress: list[DrainProgress] = []
    printed: dict[str, str] = {}
    for progress in draining.drain(client, chosen, grace=grace, timeout=timeout):
        for each in progress:
            line = _line(each)
            key = f"{each.worker.name} {each.worker.pid}"
            if printed.get(key) != line:
                printed[key] = line
                click.echo(line)
    return _exit_code(progress)


def _line(progress: DrainProgress) -> str:
    from producer.client.drain import DRAINED, LOST, SILENT

    steps = ", ".join(progress.executing) or "no known step"
    texts = {
        DRAINED: "drained",
        LOST: f"ended without deregistering; it was executing {steps}, which other workers take over",
        SILENT: f"does not answer; it is executing {steps}. Stop its process (SIGTERM)",
    }
    return f"{progress.worker.name}: {texts.get(progress.state) or f'draining, executing {steps}'}"


def _exit_code(progress: Sequence[DrainProgress]) -> int:
    from producer.client.drain import DRAINED

    left = [each for each in progress if each.state != DRAINED]
    if not left:
        return 0
    names = ", ".join(each.worker.name for each in left)
    click.echo(f"Not drained: {names}. Repeat the command to see their progress.", err=True)
    return EXIT_NOT_DRAINED
