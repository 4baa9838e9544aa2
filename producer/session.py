"""One dbt command from start to end: submits it, follows its run, and returns its result."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from producer.client import RelayClient
from producer.dbt_cli.arguments import parse_with_threads
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.tables import read_with_tables
from producer.following.artifacts import write_artifacts
from producer.following.file_log import LogWriter, open_log
from producer.following.follow import EventReader, WorkerCheck, abandon
from producer.following.interrupts import Detached, Interrupts
from producer.following.own_locks import explain_own_locks
from producer.following.streams import say
from producer.request import new_request
from producer.stacks import Stack, find_stack
from producer.worker_tables import worker_tables
from workers.contract.errors import BrokerUnavailableError, DbtError
from workers.contract.events import LINE, MISSING, REPEATED, STDERR, Event, waiting_for
from workers.contract.log import phase
from workers.contract.messages import Limits, RetryPolicy, RunRequest
from workers.contract.results import WAITING, DbtResult
from workers.contract.settings import Settings, read_settings

__all__ = ["Follower", "Stack", "find_stack", "retry_run", "run_invocation"]


class Follower:
    """Runs commands on a stack: passes events to a callback, cancels on Ctrl-C, writes artifacts and dbt's log."""

    def __init__(self, stack: Stack, settings: Settings) -> None:
        self.stack = stack
        self.settings = settings
        # an embedded server that has gone does not come back
        away = {} if stack.runtime_dir is None else {"away": 0.0}
        self.client = RelayClient(
            stack.broker_url, namespace=settings.namespace, queue=settings.queue, **away
        )

    def run(
        self,
        invocation: Invocation,
        *,
        cwd: Path,
        environ: Mapping[str, str],
        on_event: Callable[[Event], None] | None = None,
        description: str = "",
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        required_models: tuple[str, ...] = (),
    ) -> DbtResult:
        """Submit a command and follow it to its end.

        Args:
            on_event: called with each event of the run.
            description: shown with the run.
            retry: retry policy of transient failures.
            limits: time limits, in place of those of the settings.
            required_models: names of models that the project must have.

        Raises:
            RelayError: Redis cannot be reached, no worker is connected, or the private stack has failed.
            KeyboardInterrupt: Ctrl-C cancelled the run. After a second Ctrl-C, the run's end was not awaited.
        """
        request, env_file = self.request(
            invocation, cwd=cwd, environ=environ, description=description, retry=retry, limits=limits,
            required_models=required_models,
        )  # fmt: skip
        return self._run(request, env_file, invocation, environ=environ, on_event=on_event)

    def retry(
        self,
        run_id: str,
        args: Sequence[str] = ("retry",),
        *,
        environ: Mapping[str, str],
        on_event: Callable[[Event], None] | None = None,
        description: str = "",
        limits: Limits | None = None,
        threads: int | None = None,
        max_attempts: int | None = None,
    ) -> DbtResult:
        """Run the failed and skipped nodes of an earlier run again, and follow the new run to its end.

        Args:
            args: dbt's command line of the retry.
            limits: time limits, in place of those of the settings, or else of the earlier run.
            threads: dbt's ``--threads`` of the retry.
            max_attempts: executions of a node in all, in place of the earlier run's.

        Raises:
            as `run`, and as `RelayClient.retry`.
        """
        again = self.client.retry_request(run_id, args)
        cwd = Path(again.cwd)
        invocation = read_with_tables(
            lambda table: parse_with_threads(again.args, threads, environ=environ, cwd=cwd, table=table),
            lambda: worker_tables(environ),
        )
        policy = again.retry
        if max_attempts is not None:
            policy = msgspec.structs.replace(policy, max_attempts=max_attempts)
        request, env_file = self.request(
            invocation, cwd=cwd, environ=environ, description=description, limits=limits
        )
        request = msgspec.structs.replace(
            request, project_dir=again.project_dir, retry_of=run_id, retry=policy,
            limits=again.limits if request.limits == Limits() else request.limits,
        )  # fmt: skip
        return self._run(request, env_file, invocation, environ=environ, on_event=on_event)

    def _run(
        self,
        request: RunRequest,
        env_file: Path | None,
        invocation: Invocation,
        *,
        environ: Mapping[str, str],
        on_event: Callable[[Event], None] | None,
    ) -> DbtResult:
        began, run_id = time.monotonic(), request.run_id
        reader = EventReader(self.client, run_id)
        recorded = ended = False
        log_writer: LogWriter | None = None

        def cancel() -> None:
            self.client.cancel(run_id, "interrupted by its caller")

        try:
            log_file = open_log(invocation, cwd=Path(request.cwd), environ=environ)
            log_writer = None if log_file is None else LogWriter(self.client, run_id, log_file)
            request = msgspec.structs.replace(request, file_log=log_writer is not None)
            with Interrupts(run_id, cancel, private=self.stack.check is not None) as interrupts:
                with phase("submit", run=run_id):
                    self.client.submit(request)
                recorded = True
                if log_writer is not None:
                    log_writer.start()
                if interrupts.count:  # Ctrl-C before the submission: there was no run to cancel
                    cancel()
                with phase("follow", run=run_id):
                    result = reader.follow(on_event, WorkerCheck(self.client, self.stack, run_id).check)
                ended = True
        except Detached:
            env_file = None  # the run still needs it; the worker that ends the run removes it
            raise
        except BaseException as error:
            refused = not recorded and isinstance(error, DbtError)  # `submit` failed: there is no run
            if not refused and abandon(self.client, self.stack, run_id, error):
                env_file = None  # as above
            raise
        finally:
            reader.stop()
            if env_file is not None:
                env_file.unlink(missing_ok=True)
            if log_writer is not None and (problem := log_writer.finish(None if ended else 2.0)):
                say(sys.stderr, f"dbt-relay: {problem}")
        result.execution_time = time.monotonic() - began
        if result.error is not None:
            result = explain_own_locks(result)
        if request.return_artifacts:
            write_artifacts(self.client, invocation, result, cwd=Path(request.cwd), environ=environ)
        return result

    def keep(self, result: DbtResult, environ: Mapping[str, str]) -> None:
        """Keep the result of a run on a private stack, for ``dbt-relay result``: the stack ends with this process."""
        if self.stack.check is None:
            return  # Redis keeps it
        from producer.following import kept_runs

        with contextlib.suppress(BrokerUnavailableError):
            fields = self.client.fields(result.run_id)
            kept_runs.keep(
                environ, result.run_id, kept_runs.KeptRun(fields=fields, lines=result.stdout.splitlines())
            )

    def request(
        self,
        invocation: Invocation,
        *,
        cwd: Path,
        environ: Mapping[str, str],
        description: str = "",
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        required_models: tuple[str, ...] = (),
    ) -> tuple[RunRequest, Path | None]:
        """Build the request for a command; see `producer.request.new_request`."""
        return new_request(
            invocation, settings=self.settings, runtime_dir=self.stack.runtime_dir, cwd=cwd, environ=environ,
            description=description, retry=retry, limits=limits, required_models=required_models,
        )  # fmt: skip


def run_invocation(
    invocation: Invocation,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    on_line: Callable[[str], None],
    description: str = "",
) -> DbtResult:
    """Run a command on the stack that `find_stack` returns, and pass dbt's lines on as they arrive.

    Args:
        on_line: called with each line of dbt's stdout.

    Raises:
        as `Follower.run`.
    """
    follower = Follower(find_stack(environ), read_settings(environ))
    result = follower.run(
        invocation, cwd=cwd, environ=environ, on_event=_lines_to(on_line), description=description
    )
    follower.keep(result, environ)
    return result


def retry_run(
    run_id: str, args: Sequence[str], *, environ: Mapping[str, str], on_line: Callable[[str], None]
) -> DbtResult:
    """Run the failed and skipped nodes of a run again, and pass dbt's lines on as they arrive.

    Raises:
        as `Follower.retry`.
    """
    from producer.following.kept_runs import kept_run

    follower = Follower(find_stack(environ), read_settings(environ))
    earlier = kept_run(environ, run_id)
    if earlier is not None:
        follower.client.restore(run_id, earlier.fields)
    result = follower.retry(run_id, args, environ=environ, on_event=_lines_to(on_line))
    follower.keep(result, environ)
    return result


def _lines_to(on_line: Callable[[str], None]) -> Callable[[Event], None]:
    """Make a callback for events: passes dbt's lines on, and prints dbt-relay's own messages on stderr."""

    def on_event(event: Event) -> None:
        if event.kind == LINE and event.stream == STDERR:
            sys.stderr.write(f"{event.text}\n")
            sys.stderr.flush()
        elif event.kind == LINE:
            on_line(event.text)
        elif event.state == WAITING:
            say(sys.stderr, f"dbt-relay: {waiting_for(event.node, event.text)}")
        elif event.state in (REPEATED, MISSING):
            say(sys.stderr, f"dbt-relay: warning: {event.text}")

    return on_event
