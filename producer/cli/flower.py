"""``dbt-relay flower``."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from producer.cli import broker
from producer.cli.programs import PASS_ON, become_celery, is_given, require


@click.command("flower", context_settings=PASS_ON)
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
def flower(flower_options: tuple[str, ...]) -> NoReturn:
    """Start Flower on the configured broker, or on the stack of `dbt-relay up`.

    Listens on 127.0.0.1. With another --address, also give --basic-auth. Accepts all options of Flower.
    """
    require("flower", "flower", "dbt-relay[flower]")
    environ = dict(os.environ)
    environ["DBT_RELAY_BROKER_URL"] = url = broker.broker_url(environ)
    broker.check_login(url)
    address = [] if is_given(flower_options, "--address") else ["--address=127.0.0.1"]
    become_celery(["flower", *address, *flower_options], environ)
