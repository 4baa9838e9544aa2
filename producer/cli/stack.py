"""``dbt-relay up``, ``down`` and ``status``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from producer.broker import configured_broker
from producer.cli import broker
from producer.embedded import stack as embedded
from workers.contract.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from producer.client import RelayClient, WorkerInfo

EXIT_NOT_RUNNING = 1
READY_SECONDS = 60.0
SHOWN_REASONS = 5


@click.command("up", help=broker.about("up"))
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Number of worker processes. Default: DBT_RELAY_WORKERS, or one for each core, 4 at most.",
)
def up(workers: int | None) -> None:
    running = embedded.find_running(os.environ)
    info = embedded.up(workers, wait_ready=READY_SECONDS)
    if running is not None:
        click.echo(f"dbt-relay is already up: {broker.processes(info.workers)}.")
        if workers is not None and workers != info.workers:
            click.echo("To change their number: dbt-relay down, then dbt-relay up --workers N.")
    else:
        click.echo(f"dbt-relay is up: {broker.processes(info.workers)}, logs in {info.runtime_dir}.")
    if configured_broker(os.environ):
        click.echo(
            "DBT_RELAY_BROKER_URL or REDIS_URL is set: commands go there, not to this stack.", err=True
        )


@click.command("down", help=broker.about("down"))
def down() -> None:
    click.echo("dbt-relay is down." if embedded.down() else "dbt-relay was not up.")


@click.command("status", help=broker.about("status"))
def status() -> int:
    url = configured_broker(os.environ)
    if url:
        return _broker_status(url)
    stack = embedded.status()
    if stack.info is None:
        click.echo("dbt-relay is not up: each command starts a private stack, and stops it at its end.")
        if stack.failure:
            click.echo(f"The last warm stack failed: {stack.failure}")
        return EXIT_NOT_RUNNING
    info = stack.info
    click.echo(f"dbt-relay is up since {broker.moment(info.started_at)}: {broker.processes(info.workers)}.")
    if not stack.ready:
        click.echo("No worker process has registered: they are starting, or failing (see the logs).")
    click.echo(f"runs in progress: {stack.active}, messages waiting: {stack.queued}")
    click.echo(f"broker: {info.broker_url}")
    click.echo(f"logs: {info.runtime_dir}")
    with contextlib.suppress(BrokerUnavailableError):
        client = broker.client_of(info.broker_url)
        _print_waiting_runs(client)
        for worker in client.workers():
            click.echo(f"worker {worker.place}: {worker.installed}")
    return 0


def _print_waiting_runs(client: RelayClient) -> None:
    waiting = client.waiting_runs()
    if waiting:
        click.echo(f"of these, waiting for their turn: {len(waiting)} (next: {waiting[0]})")


def _broker_status(url: str) -> int:
    from workers.contract.credentials import mask_url

    client = broker.client_of(url)
    workers = client.workers()
    active = [run for run in client.runs() if run.state in ("active", "stopping")]
    click.echo(f"broker: {mask_url(url)}")
    for worker in workers:
        click.echo(
            f"worker {worker.place}: {'draining, ' if worker.draining else ''}"
            f"{broker.processes(worker.processes)}, queue {worker.queue}, release {worker.version}, "
            f"{worker.installed}, since {broker.moment(worker.since)}"
        )
    _warn_of_mixed_releases(workers)
    click.echo(f"runs in progress: {len(active)}")
    _print_waiting_runs(client)
    refused = client.refused()
    if refused:
        click.echo(f"messages refused: {sum(refused.values())}")
        for reason, times in list(refused.items())[:SHOWN_REASONS]:
            click.echo(f"  {times} x {reason}")
    if not workers:
        click.echo("No worker is connected. Start one: dbt-relay worker")
        return EXIT_NOT_RUNNING
    return 0


def _warn_of_mixed_releases(workers: Sequence[WorkerInfo]) -> None:
    """Print a warning for each queue whose workers have several releases of dbt."""
    releases: dict[str, set[str]] = {}
    for worker in workers:
        releases.setdefault(worker.queue, set()).add(worker.dbt or "unknown")
    for queue, several in releases.items():
        if len(several) > 1:
            click.echo(
                f"warning: the workers of queue {queue} have several releases of dbt-core: "
                f"{', '.join(sorted(several))}. Workers of the release that plans a run execute all of it, and any "
                "release may plan it. Give each release its own DBT_RELAY_QUEUE and DBT_RELAY_NAMESPACE."
            )
