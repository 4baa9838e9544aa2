"""``dbt-relay demo``."""

from __future__ import annotations

from pathlib import Path

import click

from producer.cli import broker


@click.command("demo", help=broker.about("demo"))
@click.option("--project", type=click.Path(exists=True, file_okay=False), default="dbt", show_default=True)
@click.option("--first-year", type=click.IntRange(2025, 2034), default=2025, show_default=True)
@click.option("--last-year", type=click.IntRange(2025, 2034), default=2027, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes."
)
def demo(project: str, first_year: int, last_year: int, workers: int) -> int:
    from producer.demo import run_demo

    if last_year < first_year:
        raise click.BadParameter("the last year is before the first year", param_hint="--last-year")
    return run_demo(Path(project), range(first_year, last_year + 1), workers=workers)
