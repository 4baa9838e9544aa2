"""``dbt-relay``: runs dbt's commands on workers, and commands of its own.

A dbt command must start in a few tenths of a second, so this path imports neither dbt nor Celery, click nor rich.
`producer.cli.commands` has dbt-relay's own commands.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from producer.cli.console import describe_error, print_error, print_line, working_directory
from producer.cli.help import OWN_COMMANDS, command_help, root_help, version_text
from producer.following.interrupts import Detached
from producer.following.streams import is_refusal, open_missing, redirect_to_null, say, write
from workers.contract.errors import DbtError

if TYPE_CHECKING:
    from producer.dbt_cli.invocation import Invocation
    from workers.contract.results import DbtResult

EXIT_ABORTED = 1
"""dbt's (and click's) exit code for a Ctrl-C before the command was submitted."""

EXIT_REFUSED = 2
"""dbt's exit code for usage errors and all other errors outside of nodes (dbt.utils.ExitCodes.UnhandledError); also
of a run that Ctrl-C cancelled."""

EXIT_DETACHED = 130
"""The second Ctrl-C: the caller has left, and the run ends without it."""

SIGNALS_THAT_CANCEL = ("SIGTERM", "SIGHUP")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dbt-relay`` and return its exit code.

    Args:
        argv: the arguments; default those of this process.
    """
    if argv is None:
        _pause_garbage_collection()
        open_missing()
    words = list(sys.argv[1:] if argv is None else argv)
    _escape_unencodable(sys.stdout)
    _escape_unencodable(sys.stderr)
    try:
        if not words:
            say(sys.stderr, root_help())
            return EXIT_REFUSED
        if words[0] in OWN_COMMANDS:
            from producer.cli.commands import run_own

            _resume_garbage_collection()
            return run_own(words)
        return run_dbt(words)
    except DbtError as error:
        print_error(error, words)
        return EXIT_REFUSED
    except KeyboardInterrupt as error:
        return _print_interrupt(error)
    except OSError as error:
        if not is_refusal(error):
            raise
        redirect_to_null(sys.stdout)
        say(sys.stderr, f"Error: stdout cannot be written: {error.strerror}")
        return EXIT_ABORTED
    finally:
        _resume_garbage_collection()


_paused: list[bool] = []


def _pause_garbage_collection() -> None:
    """Disable the garbage collector while modules are imported: nothing becomes garbage, and it took a quarter of
    the start-up time."""
    if gc.isenabled():
        gc.disable()
        _paused.append(True)


def _resume_garbage_collection() -> None:
    """Enable the garbage collector again, without the objects of imported modules."""
    if _paused:
        _paused.clear()
        gc.freeze()
        gc.enable()


def run_dbt(words: Sequence[str]) -> int:
    """Run a dbt command line, print dbt's lines as they arrive, and return dbt's exit code.

    Raises:
        DbtUsageError: dbt would refuse it; nothing was queued.
        RelayError: Redis cannot be reached, or no worker is connected.
        KeyboardInterrupt: Ctrl-C cancelled the run. After a second Ctrl-C, the run's end was not awaited.
    """
    from producer.dbt_cli.project import check_project

    environ = dict(os.environ)
    cwd = working_directory()
    if "retry" in words:
        from producer.cli.retry import named_run
        from producer.dbt_cli.tables import read_with_tables
        from producer.worker_tables import worker_tables

        named = read_with_tables(lambda table: named_run(words, table), lambda: worker_tables(environ))
        if named is not None:
            return _retry_run(*named, environ)
    invocation = _parse(words, cwd, environ)
    if invocation.wants_help:
        text = command_help(invocation.command, invocation.table) if invocation.command else root_help()
        write(sys.stdout, f"{text}\n")
        return 0
    if invocation.wants_version:
        write(sys.stdout, f"{version_text(environ)}\n")
        return 0
    check_project(invocation, cwd=cwd, environ=environ)
    from producer.session import run_invocation

    _resume_garbage_collection()
    return _exit_code(
        lambda: run_invocation(invocation, cwd=cwd, environ=environ, on_line=print_line),
        quiet=_prints_only_dbt(invocation),
    )


def _parse(words: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Invocation:
    from producer.dbt_cli.arguments import parse_invocation
    from producer.dbt_cli.tables import read_with_tables
    from producer.worker_tables import worker_tables

    return read_with_tables(
        lambda table: parse_invocation(words, environ=environ, cwd=cwd, table=table),
        lambda: worker_tables(environ),
    )


def _retry_run(run: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """``dbt-relay retry RUN``: run the failed and skipped nodes of a run again."""
    from producer.cli import broker
    from producer.cli.known_runs import find_run, is_kept
    from producer.session import retry_run

    _resume_garbage_collection()
    invocation = _parse(words, working_directory(), environ)
    run_id = find_run(broker.client_if_any(), run, one_off=True)
    if not is_kept(run_id):
        broker.client()  # raises the error for a missing broker
    return _exit_code(
        lambda: retry_run(run_id, words, environ=environ, on_line=print_line),
        quiet=_prints_only_dbt(invocation),
    )


def _exit_code(execute: Callable[[], DbtResult], *, quiet: bool) -> int:
    """Execute a command and return its exit code. Explains a failure on stderr unless `quiet`."""
    with _termination_cancels() as received:
        try:
            result = execute()
        except KeyboardInterrupt as error:
            if not received:
                raise
            say(sys.stderr, f"dbt-relay: {str(error) or 'terminated'}")
            return 128 + received[0]
    if not result.success and not quiet:
        _explain(result)
    return result.return_code


def _explain(result: DbtResult) -> None:
    """Print the classified error of a failed command on stderr."""
    if result.error is None:
        return
    say(sys.stderr, f"dbt-relay: {describe_error(result.error)}")
    others = sum(node.error is not None for node in result.nodes) - 1
    if others > 0:
        from producer.cli.known_runs import is_kept

        shown = f"; `dbt-relay result {result.run_id}` shows all of them" if is_kept(result.run_id) else ""
        say(sys.stderr, f"dbt-relay: {others} more{shown}")


def _prints_only_dbt(invocation: Invocation) -> bool:
    options = invocation.options
    return bool(options.get("quiet")) or options.get("log_format") == "json"


def _print_interrupt(error: KeyboardInterrupt) -> int:
    """Print what Ctrl-C did, and return the exit code."""
    text = str(error)
    if not text:
        say(sys.stderr, "Aborted!")
        return EXIT_ABORTED
    say(sys.stderr, f"dbt-relay: {text}")
    return EXIT_DETACHED if isinstance(error, Detached) and error.run_remains else EXIT_REFUSED


@contextmanager
def _termination_cancels() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP act as Ctrl-C: they would have ended dbt's process, and its run.

    Yields:
        the numbers of the signals that were received.
    """
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        received.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS_THAT_CANCEL:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                previous[number] = signal.signal(number, on_signal)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _escape_unencodable(stream: TextIO | None) -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
