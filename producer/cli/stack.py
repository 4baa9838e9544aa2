"""``dbt-relay up``, ``down``, ``status``, ``worker`` and ``flower``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from producer.cli import broker
from producer.embedded import stack as embedded
from producer.usage_errors import usage_error
from workers.contract.errors import BrokerUnavailableError
from workers.contract.settings import read_settings

if TYPE_CHECKING:
    from producer.client import RelayClient, WorkerInfo

EXIT_NOT_RUNNING = 1
READY_SECONDS = 60.0


@click.command("up", help=broker.about("up"))
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Worker processes. Default: DBT_RELAY_WORKERS or the cores, 4 at most.",
)
def up(workers: int | None) -> None:
    running = embedded.find_running(os.environ)
    info = embedded.up(workers, wait_ready=READY_SECONDS)
    if running is not None:
        click.echo(f"dbt-relay was up already: {broker.processes(info.workers)}.")
        if workers is not None and workers != info.workers:
            click.echo("To change their number: dbt-relay down, then up again.")
    else:
        click.echo(f"dbt-relay is up: {broker.processes(info.workers)}, logs in {info.runtime_dir}.")
    if embedded.configured_broker(os.environ):
        click.echo(
            "But DBT_RELAY_BROKER_URL or REDIS_URL is set: commands go there, not to this stack.", err=True
        )


@click.command("down", help=broker.about("down"))
def down() -> None:
    click.echo("dbt-relay is down." if embedded.down() else "dbt-relay was not up.")


@click.command("status", help=broker.about("status"))
def status() -> int:
    url = embedded.configured_broker(os.environ)
    if url:
        return _broker_status(url)
    stack = embedded.status()
    if stack.info is None:
        click.echo("dbt-relay is not up: a command starts a private stack and stops it at its end.")
        if stack.failure:
            click.echo(f"The last warm stack failed: {stack.failure}")
        return EXIT_NOT_RUNNING
    info = stack.info
    click.echo(f"dbt-relay is up since {broker.moment(info.started_at)}: {broker.processes(info.workers)}.")
    if not stack.ready:
        click.echo("The worker has not said hello: it is starting, or in trouble.")
    click.echo(f"runs in progress: {stack.active}, messages waiting: {stack.queued}")
    click.echo(f"broker: {info.broker_url}")
    click.echo(f"logs: {info.runtime_dir}")
    with contextlib.suppress(BrokerUnavailableError):
        client = broker.client_of(info.broker_url)
        _say_who_waits(client)
        for worker in client.workers():
            click.echo(f"worker {worker.place}: {worker.installed}")
    return 0


def _say_who_waits(client: RelayClient) -> None:
    waiting = client.waiting_runs()
    if waiting:
        click.echo(f"of these, runs that wait for their turn: {len(waiting)} (next: {waiting[0]})")


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
    _warn_of_releases(workers)
    click.echo(f"runs in progress: {len(active)}")
    _say_who_waits(client)
    refused = client.refused()
    if refused:
        click.echo(f"messages refused: {sum(refused.values())}")
        for reason, times in list(refused.items())[:SHOWN_REASONS]:
            click.echo(f"  {times} x {reason}")
    if not workers:
        click.echo("No worker is connected. Start one: dbt-relay worker")
        return EXIT_NOT_RUNNING
    return 0


def _warn_of_releases(workers: Sequence[WorkerInfo]) -> None:
    """Say where one queue has workers with several releases of dbt."""
    releases: dict[str, set[str]] = {}
    for worker in workers:
        releases.setdefault(worker.queue, set()).add(worker.dbt or "unknown")
    for queue, several in releases.items():
        if len(several) > 1:
            click.echo(
                f"warning: the workers of queue {queue} have several releases of dbt-core: "
                f"{', '.join(sorted(several))}. Each run stays with workers of the release that planned it; which one "
                "that is, is left to chance. Give each release a queue of its own (DBT_RELAY_QUEUE)."
            )


SHOWN_REASONS = 5
PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


@click.command("worker", context_settings=PASSED_ON)
@click.option(
    "--workers",
    "-c",
    "--concurrency",
    type=click.IntRange(1, 256),
    help="Worker processes. Default: the cores.",
)
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(workers: int | None, celery_options: tuple[str, ...]) -> NoReturn:
    """Start a worker on the broker of DBT_RELAY_BROKER_URL or REDIS_URL.

    The same as `celery -A workers.app worker` with defaults that suit; options that are not listed
    here are Celery's.
    """
    needs("celery", "celery", "dbt-relay")
    needs("dbt.adapters", "dbt-core and an adapter", "dbt-relay[worker]")
    settings = read_settings(os.environ)
    if not settings.broker_url:
        raise usage_error(
            "no_broker",
            "A worker needs a broker, and none is configured.",
            "Set DBT_RELAY_BROKER_URL, such as redis://localhost:6379/0. "
            "For a private server with workers: dbt-relay up.",
        )
    broker.check_login(settings.broker_url)
    words = ["--without-gossip", "--without-mingle", "--queues", settings.queue]
    words += ["--loglevel", "warning"] if not _given(celery_options, "-l", "--loglevel") else []
    words += ["--concurrency", str(workers)] if workers else []
    _celery(["worker", *words, *celery_options], os.environ)


@click.command("flower", context_settings=PASSED_ON)
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
def flower(flower_options: tuple[str, ...]) -> NoReturn:
    """Start Flower on the configured broker, or on the stack of `dbt-relay up`.

    It listens on 127.0.0.1 alone unless --address says otherwise: give it --basic-auth then. Options
    are Flower's.
    """
    needs("flower", "flower", "dbt-relay[flower]")
    environ = dict(os.environ)
    environ["DBT_RELAY_BROKER_URL"] = url = broker.broker_url(environ)
    broker.check_login(url)
    address = [] if _given(flower_options, "--address") else ["--address=127.0.0.1"]
    _celery(["flower", *address, *flower_options], environ)


def _celery(words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become a Celery command: signals then reach Celery itself."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "celery", "-A", "workers.app", *words], environ)  # noqa: S606


def _given(words: Sequence[str], *names: str) -> bool:
    return any(word == name or word.startswith(f"{name}=") for word in words for name in names)


def needs(module: str, what: str, requirement: str) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise usage_error(
            "not_installed",
            f"This needs {what}, which is not installed here.",
            f'pip install "{requirement}"',
        )
