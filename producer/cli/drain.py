"""``dbt-relay drain``: stop workers in good order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from producer.cli import broker

if TYPE_CHECKING:
    from producer.drain import Seen

EXIT_NOT_DRAINED = 1


@click.command("drain", help=broker.about("drain"))
@click.argument("workers", metavar="[WORKER]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All workers that are connected.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    help="Seconds that nodes may go on; then they are handed back. Default: the workers' DBT_RELAY_DRAIN_SECONDS.",
)
@click.option(
    "--timeout", type=click.FloatRange(0),
    help="Seconds to wait for them; they go on draining afterwards. Default: as long as it takes.",
)  # fmt: skip
def drain(workers: tuple[str, ...], every: bool, grace: float | None, timeout: float | None) -> int:
    from producer import drain as draining

    client = broker.client()
    chosen = draining.choose(client.workers(), workers, every=every)
    if not chosen:
        click.echo("No worker is connected.")
        return 0
    seen: list[Seen] = []
    said: dict[str, str] = {}
    for seen in draining.drain(client, chosen, grace=grace, timeout=timeout):
        for each in seen:
            line = _line(each)
            key = f"{each.worker.name} {each.worker.pid}"
            if said.get(key) != line:
                said[key] = line
                click.echo(line)
    return _verdict(seen)


def _line(seen: Seen) -> str:
    from producer.drain import DRAINED, LOST, SILENT

    doing = ", ".join(seen.executing) or "nothing that is known"
    words = {
        DRAINED: "drained",
        LOST: f"ended without a goodbye; it executed {doing}, which others take over",
        SILENT: f"does not answer; it executes {doing}. Stop its process (SIGTERM)",
    }
    return f"{seen.worker.name}: {words.get(seen.state) or f'draining, executes {doing}'}"


def _verdict(seen: Sequence[Seen]) -> int:
    from producer.drain import DRAINED

    left = [each for each in seen if each.state != DRAINED]
    if not left:
        return 0
    names = ", ".join(each.worker.name for each in left)
    click.echo(f"Not drained: {names}. Ask again for how far they are.", err=True)
    return EXIT_NOT_DRAINED
