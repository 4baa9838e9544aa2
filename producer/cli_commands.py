"""dbt-relay's own commands: the stack, workers, Flower, and runs."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from producer import embedded
from producer.cli_help import OWN_COMMANDS
from producer.usage import did_you_mean, usage_error
from workers.contract.errors import BrokerUnavailableError, Category, ErrorInfo
from workers.contract.names import is_run_id
from workers.contract.settings import Settings, celery_url, read_settings

if TYPE_CHECKING:
    from producer.client import RelayClient, RunSummary
    from workers.contract.results import DbtResult

EXIT_NOT_RUNNING = 1
LATEST = "latest"
READY_SECONDS = 60.0


def run_own(words: Sequence[str]) -> int:
    """Run one of dbt-relay's own commands; its exit code, 2 when the words are not understood.

    Raises:
        DbtError: it could not be done.
    """
    try:
        code = group.main(args=list(words), prog_name="dbt-relay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # click's for a Ctrl-C, which says what was interrupted
        raise (error.__cause__ or KeyboardInterrupt()) from None
    return code if isinstance(code, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """The commands that are not dbt's."""


def _about(name: str, more: str = "") -> str:
    text = OWN_COMMANDS[name] + more
    return f"{text[0].upper()}{text[1:]}."


# ---------------------------------------------------------------- the stack


@group.command("up", help=_about("up"))
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Worker processes. Default: DBT_RELAY_WORKERS or the cores, 4 at most.",
)
def up(workers: int | None) -> None:
    running = embedded.find_running(os.environ)
    info = embedded.up(workers, wait_ready=READY_SECONDS)
    if running is not None:
        click.echo(f"dbt-relay was up already: {_processes(info.workers)}.")
        if workers is not None and workers != info.workers:
            click.echo("To change their number: dbt-relay down, then up again.")
    else:
        click.echo(f"dbt-relay is up: {_processes(info.workers)}, logs in {info.runtime_dir}.")
    if embedded.configured_broker(os.environ):
        click.echo(
            "But DBT_RELAY_BROKER_URL or REDIS_URL is set: commands go there, not to this stack.", err=True
        )


@group.command("down", help=_about("down"))
def down() -> None:
    click.echo("dbt-relay is down." if embedded.down() else "dbt-relay was not up.")


@group.command("status", help=_about("status"))
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
    click.echo(f"dbt-relay is up since {_moment(info.started_at)}: {_processes(info.workers)}.")
    if not stack.ready:
        click.echo("The worker has not said hello: it is starting, or in trouble.")
    click.echo(f"runs in progress: {stack.active}, messages waiting: {stack.queued}")
    click.echo(f"broker: {info.broker_url}")
    click.echo(f"logs: {info.runtime_dir}")
    return 0


def _broker_status(url: str) -> int:
    from workers.contract.scrub import scrub

    client = _client_of(url)
    workers = client.workers()
    active = [run for run in client.runs() if run.state in ("active", "stopping")]
    click.echo(f"broker: {scrub(url)}")
    for worker in workers:
        click.echo(
            f"worker {worker.host}:{worker.pid}: {_processes(worker.processes)}, queue {worker.queue}, "
            f"release {worker.version}, since {_moment(worker.since)}"
        )
    click.echo(f"runs in progress: {len(active)}")
    if not workers:
        click.echo("No worker is connected. Start one: dbt-relay worker")
        return EXIT_NOT_RUNNING
    return 0


PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}


@group.command("worker", context_settings=PASSED_ON)
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
    _needs("celery", "celery", "dbt-relay")
    _needs("dbt.adapters", "dbt-core and an adapter", "dbt-relay[worker]")
    settings = read_settings(os.environ)
    if not settings.broker_url:
        raise usage_error(
            "no_broker",
            "A worker needs a broker, and none is configured.",
            "Set DBT_RELAY_BROKER_URL, such as redis://localhost:6379/0. "
            "For a private server with workers: dbt-relay up.",
        )
    words = ["--without-gossip", "--without-mingle", "--queues", settings.queue]
    words += ["--loglevel", "warning"] if not _given(celery_options, "-l", "--loglevel") else []
    words += ["--concurrency", str(workers)] if workers else []
    _celery(["worker", *words, *celery_options], os.environ)


@group.command("flower", context_settings=PASSED_ON)
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
def flower(flower_options: tuple[str, ...]) -> NoReturn:
    """Start Flower on the configured broker, or on the stack of `dbt-relay up`.

    It listens on 127.0.0.1 alone unless --address says otherwise: give it --basic-auth then. Options
    are Flower's.
    """
    _needs("flower", "flower", "dbt-relay[flower]")
    environ = dict(os.environ)
    environ["DBT_RELAY_BROKER_URL"] = celery_url(_broker_url(environ))
    address = [] if _given(flower_options, "--address") else ["--address=127.0.0.1"]
    _celery(["flower", *address, *flower_options], environ)


def _celery(words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become a Celery command: signals then reach Celery itself."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "celery", "-A", "workers.app", *words], environ)  # noqa: S606


def _given(words: Sequence[str], *names: str) -> bool:
    return any(word == name or word.startswith(f"{name}=") for word in words for name in names)


def _needs(module: str, what: str, requirement: str) -> None:
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


# ---------------------------------------------------------------- runs

RUN = click.argument("run", metavar="RUN")


@group.command("runs", help=_about("runs", ", the newest first"))
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def runs(limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    known = _client().runs()
    if not known:
        click.echo("No runs are known.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "state", "nodes", "submitted", "command"):
        table.add_column(title, no_wrap=title != "command", overflow="fold")
    for run in known[:limit]:
        table.add_row(
            run.run_id, run.state, f"{run.done}/{run.total}", _moment(run.submitted_at), Text(run.command)
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)
    if len(known) > limit:
        click.echo(f"… {len(known) - limit} more: --limit {len(known)} shows all.")


@group.command("watch", help=_about("watch", "; ends with the run's exit code"))
@RUN
@click.option("--plain", is_flag=True, help="Lines alone, also on a terminal.")
def watch(run: str, plain: bool) -> int:
    from producer.cli import print_line
    from producer.live import view_for
    from workers.contract.events import LINE

    client = _client()
    run_id = find_run(client, run)
    lines: list[str] = []
    with _left_running(run_id):
        if plain or not sys.stdout.isatty():
            for event in client.watch(run_id):
                if event.kind == LINE:
                    lines.append(event.text)
                    print_line(event.text)
        else:
            with view_for(sys.stdout, title=run_id) as view:
                for event in client.watch(run_id):
                    view.on_event(event)
    return client.collect(run_id, lines).return_code


@group.command("result", help=_about("result", "; ends with the run's exit code"))
@RUN
@click.option("--json", "as_json", is_flag=True, help="As JSON, dbt's lines and run results included.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the run to end. Default: as long as it takes.",
)
def result(run: str, as_json: bool, timeout: float | None) -> int:
    client = _client()
    run_id = find_run(client, run)
    try:
        with _left_running(run_id):
            found = client.result(run_id, timeout=timeout)
    except TimeoutError as error:
        raise usage_error("still_running", f"{error}.", f"Follow it: dbt-relay watch {run_id}") from None
    if as_json:
        click.echo(_json(found))
    else:
        from producer.report import print_result

        print_result(found)
    return found.return_code


@group.command("cancel", help=_about("cancel"))
@RUN
@click.option("--reason", default="cancelled from the command line", show_default=True)
def cancel(run: str, reason: str) -> int:
    client = _client()
    run_id = find_run(client, run)
    if client.cancel(run_id, reason):
        click.echo(f"Cancelling {run_id}: nodes that have not begun will not begin.")
        return 0
    click.echo(f"{run_id} has ended already, or is being cancelled.")
    return EXIT_NOT_RUNNING


@group.command("demo", help=_about("demo"))
@click.option("--project", type=click.Path(exists=True, file_okay=False), default="dbt", show_default=True)
@click.option("--first-year", type=click.IntRange(2025, 2034), default=2025, show_default=True)
@click.option("--last-year", type=click.IntRange(2025, 2034), default=2027, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes."
)
def demo(project: str, first_year: int, last_year: int, workers: int) -> int:
    from pathlib import Path

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


def find_run(client: RelayClient, text: str) -> str:
    """The run that `text` names: a run id, the beginning of one, or ``latest``.

    Raises:
        DbtUsageError: none, or several, with the nearest ones.
    """
    if is_run_id(text):
        return text
    known: list[RunSummary] = client.runs()
    ids = [run.run_id for run in known]
    found = ids[:1] if text == LATEST else [run_id for run_id in ids if run_id.startswith(text)]
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


def _client() -> RelayClient:
    return _client_of(_broker_url(os.environ))


def _client_of(url: str) -> RelayClient:
    from producer.client import RelayClient

    settings: Settings = read_settings(os.environ)
    return RelayClient(url, namespace=settings.namespace, queue=settings.queue)


def _broker_url(environ: Mapping[str, str]) -> str:
    """The configured broker, or that of the warm stack. Raises BrokerUnavailableError when there is neither."""
    url = embedded.configured_broker(environ)
    if url:
        return url
    warm = embedded.find_running(environ)
    if warm is not None:
        return warm.broker_url
    message = "no broker is configured, and dbt-relay is not up"
    raise BrokerUnavailableError(
        message,
        ErrorInfo(
            code="no_broker",
            category=Category.BROKER.value,
            error_class="BrokerUnavailableError",
            message=message,
            suggested_fix="Set DBT_RELAY_BROKER_URL, or start a private stack: dbt-relay up.",
        ),
    )


def _json(found: DbtResult) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def _processes(number: int) -> str:
    return f"{number} worker process{'' if number == 1 else 'es'}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
