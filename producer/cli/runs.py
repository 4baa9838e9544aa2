"""``dbt-relay runs``, ``watch``, ``result``, ``cancel`` and ``demo``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from producer.cli import broker
from producer.kept_runs import kept_run, kept_summaries
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.keys import is_run_id

if TYPE_CHECKING:
    from producer.client import RelayClient, RunSummary
    from workers.contract.results import DbtResult

EXIT_ENDED_ALREADY = 1
LATEST = "latest"

RUN = click.argument("run", metavar="RUN")


@click.command("runs", help=broker.about("runs", ", the newest first"))
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def runs(limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    known = known_runs(broker.client_if_any())
    if not known:
        broker.client()  # says what is missing where nobody can be asked
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
@click.option("--plain", is_flag=True, help="Lines alone, also on a terminal.")
def watch(run: str, plain: bool) -> int:
    from producer.cli.main import print_line
    from producer.display.live_view import view_for
    from producer.following.follow import EventReader
    from workers.contract.events import LINE, MISSING, STDERR, Event

    client = broker.client_if_any()
    run_id = find_run(client, run, ended=True)
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
@click.option("--json", "as_json", is_flag=True, help="As JSON, dbt's lines and run results included.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the run to end. Default: as long as it takes.",
)
def result(run: str, as_json: bool, timeout: float | None) -> int:
    client = broker.client_if_any()
    run_id = find_run(client, run, ended=True)
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
    run_id = find_run(client, run, ended=True)
    if kept_run(os.environ, run_id) is None and (client or broker.client()).cancel(run_id, reason):
        click.echo(f"Cancelling {run_id}: nodes that have not begun will not begin.")
        return 0
    click.echo(f"{run_id} has ended already, or is being cancelled.")
    return EXIT_ENDED_ALREADY


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
        raise click.BadParameter("the last year is before the first one", param_hint="--last-year")
    return run_demo(Path(project), range(first_year, last_year + 1), workers=workers)


@contextmanager
def _left_running(run_id: str) -> Iterator[None]:
    """Ctrl-C while only looking on says that the run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"left {run_id} alone; `dbt-relay cancel {run_id}` stops it") from None


def known_runs(client: RelayClient | None) -> list[RunSummary]:
    """Runs of the broker, where there is one, and those of private stacks that ended; the newest first."""
    runs = {run.run_id: run for run in (*kept_summaries(os.environ), *(client.runs() if client else ()))}
    return [runs[run_id] for run_id in sorted(runs, reverse=True)]


def is_kept(run_id: str) -> bool:
    """Whether ``dbt-relay result`` can find the run of a command that has just ended."""
    return broker.client_if_any() is not None or kept_run(os.environ, run_id) is not None


def find_run(client: RelayClient | None, text: str, *, ended: bool = False) -> str:
    """The run that `text` names: a run id, the beginning of one, or ``latest``.

    Args:
        ended: whether it may be one of a private stack that ended.

    Raises:
        DbtUsageError: none, or several, with the nearest ones.
    """
    if is_run_id(text):
        return text
    from producer.client import UNREADABLE

    known = known_runs(client) if ended else client.runs() if client else []
    ids = [run.run_id for run in known]
    readable = [run.run_id for run in known if run.state != UNREADABLE]
    found = readable[:1] if text == LATEST else [run_id for run_id in ids if run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if not ids:
        raise usage_error("no_such_run", f"There is no run {text!r}: no runs are known.")
    if found:
        raise usage_error(
            "ambiguous_run", f"{len(found)} runs begin with {text!r}.", f"Such as {found[0]} and {found[1]}."
        )
    hint = did_you_mean(text, ids)
    raise usage_error(
        "no_such_run",
        f"There is no run {text!r}.{hint}",
        f"`dbt-relay runs` lists them; {LATEST!r} is the newest.",
    )


def _json(found: DbtResult) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
