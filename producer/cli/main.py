"""``dbt-relay``: dbt's twin on the command line, and a few commands of its own.

A dbt command must start in a few tenths of a second: this path imports neither dbt nor Celery, click
nor rich. What is dbt-relay's own lies in `cli_commands`.
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

from producer.cli.help import OWN_COMMANDS, command_help, root_help, version_text
from producer.dbt_cli.options import subcommands
from producer.following.streams import is_refusal, open_missing, redirect_to_null, say, write
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.errors import DbtError, DbtUsageError, ErrorInfo

if TYPE_CHECKING:
    from producer.dbt_cli.arguments import Invocation
    from workers.contract.results import DbtResult

EXIT_ABORTED = 1
"""click's, which is dbt's, for a Ctrl-C before the command was under way."""

EXIT_REFUSED = 2
"""dbt's for a usage error, and for everything that is no failed node (dbt.utils.ExitCodes.UnhandledError);
a run that Ctrl-C stopped ends with it, too."""

EXIT_DETACHED = 130
"""The run goes on to its end without its caller: the second Ctrl-C."""

SIGNALS_THAT_CANCEL = ("SIGTERM", "SIGHUP")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dbt-relay`` with `argv` (default: the process' own arguments); the exit code."""
    if argv is None:
        _begin()
        open_missing()
    words = list(sys.argv[1:] if argv is None else argv)
    _lenient(sys.stdout)
    _lenient(sys.stderr)
    try:
        if not words:
            say(sys.stderr, root_help())
            return EXIT_REFUSED
        if words[0] in OWN_COMMANDS:
            from producer.cli.commands import run_own

            _loaded()
            return run_own(words)
        return run_dbt(words)
    except DbtError as error:
        report_error(error, words)
        return EXIT_REFUSED
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except OSError as error:
        if not is_refusal(error):
            raise
        redirect_to_null(sys.stdout)
        return _not_printed(error)
    finally:
        _loaded()


_loading: list[bool] = []


def _begin() -> None:
    """The process is this command's alone: while it imports, nothing becomes garbage, and the collector's looks
    for some took a quarter of its start."""
    if gc.isenabled():
        gc.disable()
        _loading.append(True)


def _loaded() -> None:
    """From here on what is made may become garbage; what was imported stays, and is not looked at again."""
    if _loading:
        _loading.clear()
        gc.freeze()
        gc.enable()


def run_dbt(words: Sequence[str]) -> int:
    """Run a dbt command line and print dbt's lines as they come; dbt's exit code.

    Raises:
        DbtUsageError: dbt would refuse it; nothing was queued.
        RelayError: no server, no worker.
        KeyboardInterrupt: Ctrl-C; the run was cancelled, and with a second one not waited for.
    """
    from producer.dbt_cli.arguments import check_project, parse_invocation
    from producer.dbt_cli.tables import judged

    environ = dict(os.environ)
    cwd = working_directory()
    if "retry" in words:
        from producer.retry_run import named_run

        named = judged(lambda table: named_run(words, table), environ)
        if named is not None:
            return _retry_run(*named, environ)
    invocation = judged(lambda table: parse_invocation(words, environ=environ, cwd=cwd, table=table), environ)
    if invocation.wants_help:
        text = command_help(invocation.command, invocation.table) if invocation.command else root_help()
        write(sys.stdout, f"{text}\n")
        return 0
    if invocation.wants_version:
        write(sys.stdout, f"{version_text(environ)}\n")
        return 0
    check_project(invocation, cwd=cwd, environ=environ)
    from producer.session import run_invocation

    _loaded()
    return _told(
        lambda: run_invocation(invocation, cwd=cwd, environ=environ, on_line=print_line),
        quiet=_wants_only_dbts_lines(invocation),
    )


def _retry_run(run: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """``dbt-relay retry RUN``: what failed and was skipped in a run, once more."""
    from producer.cli import broker
    from producer.cli.runs import find_run, is_kept
    from producer.dbt_cli.arguments import parse_invocation
    from producer.dbt_cli.tables import judged
    from producer.session import retry_run

    _loaded()
    cwd = working_directory()
    invocation = judged(lambda table: parse_invocation(words, environ=environ, cwd=cwd, table=table), environ)
    run_id = find_run(broker.client_if_any(), run, ended=True)
    if not is_kept(run_id):
        broker.client()  # says what is missing
    return _told(
        lambda: retry_run(run_id, words, environ=environ, on_line=print_line),
        quiet=_wants_only_dbts_lines(invocation),
    )


def _told(carry: Callable[[], DbtResult], *, quiet: bool) -> int:
    """The exit code of a command that is carried through, with what there is to say about a failure."""
    with _termination_cancels() as heard:
        try:
            result = carry()
        except KeyboardInterrupt as error:
            if not heard:
                raise
            say(sys.stderr, f"dbt-relay: {str(error) or 'terminated'}")
            return 128 + heard[0]
    if not result.success and not quiet:
        _explain(result)
    return result.return_code


def working_directory() -> Path:
    """The caller's working directory, as dbt takes it. Raises DbtUsageError when it was removed."""
    try:
        return Path.cwd()
    except OSError as error:
        raise usage_error(
            "no_working_directory",
            f"The working directory cannot be used: {error.strerror}",
            "Change to the folder of your dbt project.",
        ) from None


def print_line(line: str) -> None:
    """One line of dbt on stdout, at once. A stdout that takes nothing (closed, full, ``| head``) does not stop the
    run, as it does not stop dbt's."""
    say(sys.stdout, line)


def report_error(error: DbtError, words: Sequence[str] = ()) -> None:
    """Print an error on stderr: dbt's usage lines where there are some, what happened, what to do."""
    info = error.info
    if info is None:
        say(sys.stderr, f"Error: {error}")
        return
    message, fix = info.message, info.suggested_fix
    if info.code == "unknown_command" and words:
        near = did_you_mean(words[0], (*subcommands(""), *OWN_COMMANDS))
        if near and message.startswith(f"No such command {words[0]!r}."):
            message, fix = f"No such command {words[0]!r}.{near}", ""
    if not isinstance(error, DbtUsageError):
        message, detail = str(error), ""  # its text is whole
    else:
        detail = info.detail
    lines = [detail, ""] if detail else []
    lines.append(f"Error: {message}")
    if fix and fix not in message:
        lines.append(fix)
    say(sys.stderr, "\n".join(lines))


def _explain(result: DbtResult) -> None:
    """What dbt-relay knows of a failure beyond dbt's own lines, on stderr."""
    if result.error is None:
        return
    say(sys.stderr, f"dbt-relay: {describe_error(result.error)}")
    others = sum(node.error is not None for node in result.nodes) - 1
    if others > 0:
        from producer.cli.runs import is_kept

        shown = f"; `dbt-relay result {result.run_id}` shows all of them" if is_kept(result.run_id) else ""
        say(sys.stderr, f"dbt-relay: {others} more{shown}")


def describe_error(error: ErrorInfo) -> str:
    """A classified error in a line or two: code, place, what happened, what to do."""
    text = error.code
    if error.node:
        text += f" in {error.node}"
    if error.file:
        text += f" ({error.file}" + (f", line {error.line})" if error.line else ")")
    if error.attempts > 1:
        text += f" after {error.attempts} attempts"
    text += f": {' '.join(error.message.split())}"
    return f"{text}\n  Fix: {error.suggested_fix}" if error.suggested_fix else text


def _wants_only_dbts_lines(invocation: Invocation) -> bool:
    options = invocation.options
    return bool(options.get("quiet")) or options.get("log_format") == "json"


def _interrupted(error: KeyboardInterrupt) -> int:
    said = str(error)
    if not said:
        say(sys.stderr, "Aborted!")
        return EXIT_ABORTED
    say(sys.stderr, f"dbt-relay: {said}")
    return EXIT_DETACHED if said.startswith("left") else EXIT_REFUSED


@contextmanager
def _termination_cancels() -> Iterator[list[int]]:
    """While it lasts, SIGTERM and SIGHUP do what Ctrl-C does: dbt's own process would have died of them,
    and its run with it. Gives the numbers of those that came."""
    heard: list[int] = []

    def hear(number: int, frame: object) -> None:  # noqa: ARG001
        heard.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS_THAT_CANCEL:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                previous[number] = signal.signal(number, hear)
    try:
        yield heard
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _lenient(stream: TextIO | None) -> None:
    """Print what the terminal's encoding lacks as escapes instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _not_printed(error: OSError) -> int:
    say(sys.stderr, f"Error: stdout cannot be written: {error.strerror}")
    return EXIT_ABORTED
