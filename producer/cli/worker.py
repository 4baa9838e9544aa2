"""``dbt-relay worker``."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from producer.cli import broker
from producer.cli.programs import PASS_ON, become_celery, is_given, require
from producer.usage_errors import usage_error
from workers.contract.settings import read_settings


@click.command("worker", context_settings=PASS_ON)
@click.option(
    "--workers",
    "-c",
    "--concurrency",
    type=click.IntRange(1, 256),
    help="Number of worker processes. Default: one for each core.",
)
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(workers: int | None, celery_options: tuple[str, ...]) -> NoReturn:
    """Start a worker on the broker of DBT_RELAY_BROKER_URL or REDIS_URL.

    Runs `celery -A workers.app worker` with suitable defaults. Accepts all other options of Celery.
    """
    require("celery", "celery", "dbt-relay")
    require("dbt.adapters", "dbt-core and an adapter", "dbt-relay[worker]")
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
    words += ["--loglevel", "warning"] if not is_given(celery_options, "-l", "--loglevel") else []
    words += ["--concurrency", str(workers)] if workers else []
    become_celery(["worker", *words, *celery_options], os.environ)
