"""``dbt-relay runs``, ``watch``, ``result`` and ``cancel``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from producer.cli import broker
from producer.cli.console import print_line
from producer.cli.known_runs import find_run, known_runs
from producer.following.interrupts import Detached
from producer.following.kept_runs import kept_run
from producer.usage_errors import usage_error

if TYPE_CHECKING:
    from workers.contract.results import DbtResult

EXIT_ENDED_ALREADY = 1

RUN = click.argument("run", metavar="RUN")


@click.command("runs", help=broker.about("runs", ", the newest first"))
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def runs(limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    known = known_runs(broker.client_if_any())
    if not known:
        broker.client()  # raises the error for a missing broker
        click.echo("No runs are known.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "state", "nodes", "submitted", "command"):
        table.add_column(title, no_wrap=title != "command", overflow="fold")
    for run in known[:limit]:
        table.add_row(
            run.run_id,
            run.state,
            f"{run.done}/{run.total}",
            broker.moment(run.submitted_at),
            Text(run.command),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)
    if len(known) > limit:
        click.echo(f"… {len(known) - limit} more: --limit {len(known)} shows all.")


@click.command("watch", help=broker.about("watch", "; ends with the run's exit code"))
@RUN
@click.option("--plain", is_flag=True, help="Print only dbt's lines, also on a terminal.")
def watch(run: str, plain: bool) -> int:
    from producer.display.live_view import view_for
    from producer.following.follow import EventReader
    from workers.contract.events import LINE, MISSING, STDERR, Event

    client = broker.client_if_any()
    run_id = find_run(client, run, one_off=True)
    kept = kept_run(os.environ, run_id)
    if kept is not None:
        for line in kept.lines:
            print_line(line)
        return kept.result().return_code

    def print_event(event: Event) -> None:
        if event.kind == LINE and event.stream == STDERR:
            sys.stderr.write(f"{event.text}\n")
        elif event.kind == LINE:
            print_line(event.text)
        elif event.state == MISSING:
            sys.stderr.write(f"dbt-relay: warning: {event.text}\n")

    reader = EventReader(client or broker.client(), run_id)
    with _left_running(run_id):
        if plain or not sys.stdout.isatty():
            found = reader.follow(print_event)
        else:
            with view_for(sys.stdout, title=run_id) as view:
                found = reader.follow(view.on_event)
    return found.return_code


@click.command("result", help=broker.about("result", "; ends with the run's exit code"))
@RUN
@click.option("--json", "as_json", is_flag=True, help="As JSON, with dbt's lines and run results.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the end of the run. Default: no limit.",
)
def result(run: str, as_json: bool, timeout: float | None) -> int:
    client = broker.client_if_any()
    run_id = find_run(client, run, one_off=True)
    kept = kept_run(os.environ, run_id)
    try:
        with _left_running(run_id):
            found = kept.result() if kept else (client or broker.client()).result(run_id, timeout=timeout)
    except TimeoutError as error:
        raise usage_error("still_running", f"{error}.", f"Follow it: dbt-relay watch {run_id}") from None
    if as_json:
        click.echo(_json(found))
    else:
        from producer.display.report import print_result

        print_result(found)
    return found.return_code


@click.command("cancel", help=broker.about("cancel"))
@RUN
@click.option("--reason", default="cancelled from the command line", show_default=True)
def cancel(run: str, reason: str) -> int:
    client = broker.client_if_any()
    run_id = find_run(client, run, one_off=True)
    if kept_run(os.environ, run_id) is None and (client or broker.client()).cancel(run_id, reason):
        click.echo(f"Cancelling {run_id}: nodes that have not started will not start.")
        return 0
    click.echo(f"{run_id} has ended, or is being cancelled.")
    return EXIT_ENDED_ALREADY


@contextmanager
def _left_running(run_id: str) -> Iterator[None]:
    """Let Ctrl-C end only the command: its message says how to stop the run."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"stopped following run {run_id}; `dbt-relay cancel {run_id}` stops it"
        raise Detached(text, run_remains=True) from None


def _json(found: DbtResult) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
