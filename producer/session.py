"""One dbt command from start to end: find or start the stack, submit, follow, collect."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from producer.client import RelayClient
from producer.dbt_cli import arguments
from producer.dbt_cli.arguments import Invocation
from producer.dbt_cli.tables import judged
from producer.embedded import stack as embedded
from producer.following.file_log import LogWriter, open_log
from producer.following.follow import EventReader, WorkerCheck, abandon
from producer.following.interrupts import Detached, Interrupts
from producer.following.own_locks import explain_own_locks
from producer.following.streams import say
from producer.sent_environment import values_to_send
from workers.contract.environment import encode_environment
from workers.contract.errors import BrokerUnavailableError, DbtError
from workers.contract.events import LINE, MISSING, REPEATED, STDERR, Event, waiting_for
from workers.contract.folder_identity import folder_identity
from workers.contract.keys import ARTIFACTS, RUN_RESULTS, new_run_id
from workers.contract.log import log, phase
from workers.contract.messages import Limits, RetryPolicy, RunRequest
from workers.contract.process_attributes import encode_process_attributes
from workers.contract.redis_values import UnpackError, unpack
from workers.contract.results import WAITING, DbtResult
from workers.contract.settings import Settings, read_settings


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """Where commands go. `runtime_dir` is the embedded stack's private folder, None for a broker."""

    broker_url: str
    runtime_dir: Path | None = None
    check: Callable[[], None] | None = None


def find_stack(environ: Mapping[str, str], *, workers: int | None = None) -> Stack:
    """The configured broker, else the warm stack of ``dbt-relay up``, else one for this process alone.

    Raises:
        RelayError: no server could be found or started; the error says what to do.
    """
    url = embedded.configured_broker(environ)
    if url:
        return Stack(broker_url=url)
    warm = embedded.find_running(environ)
    if warm is not None:
        return Stack(broker_url=warm.broker_url, runtime_dir=warm.runtime_dir)
    own = embedded.shared_stack(workers)
    info = own.start()
    return Stack(broker_url=info.broker_url, runtime_dir=info.runtime_dir, check=own.check)


class Follower:
    """Follows one run: its lines to a callback, Ctrl-C to a cancel, its artifacts to the target folder."""

    def __init__(self, stack: Stack, settings: Settings) -> None:
        self.stack = stack
        self.settings = settings
        # a private server that went away does not come back
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
            limits: instead of those that the settings say.

        Raises:
            RelayError: Redis, workers or the stack are not there.
            KeyboardInterrupt: Ctrl-C; the run was cancelled, and with a second one not waited for.
        """
        request, env_file = self.request(
            invocation, cwd=cwd, environ=environ, description=description, retry=retry, limits=limits,
            required_models=required_models,
        )  # fmt: skip
        return self._carry(request, env_file, invocation, environ=environ, on_event=on_event)

    def retry(
        self,
        run_id: str,
        args: Sequence[str] = ("retry",),
        *,
        environ: Mapping[str, str],
        on_event: Callable[[Event], None] | None = None,
        description: str = "",
        limits: Limits | None = None,
    ) -> DbtResult:
        """Run again what failed and was skipped in an earlier run, and follow it to its end.

        Args:
            args: dbt's command line of the retry.
            limits: instead of those that the settings say, or else the earlier run had.

        Raises:
            as `run`, and as `RelayClient.retry`.
        """
        again = self.client.retry_request(run_id, args)
        cwd = Path(again.cwd)
        invocation = judged(
            lambda table: arguments.parse_invocation(again.args, environ=environ, cwd=cwd, table=table),
            environ,
        )
        request, env_file = self.request(
            invocation, cwd=cwd, environ=environ, description=description, limits=limits
        )
        request = msgspec.structs.replace(
            request, project_dir=again.project_dir, retry_of=run_id, retry=again.retry,
            limits=again.limits if request.limits == Limits() else request.limits,
        )  # fmt: skip
        return self._carry(request, env_file, invocation, environ=environ, on_event=on_event)

    def _carry(
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
                if interrupts.count:  # it may have been too early
                    cancel()
                with phase("follow", run=run_id):
                    result = reader.follow(on_event, WorkerCheck(self.client, self.stack, run_id).check)
                ended = True
        except Detached:
            env_file = None  # the run needs it still; who ends the run removes it
            raise
        except BaseException as error:
            refused = not recorded and isinstance(error, DbtError)  # by `submit`: there is no run
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
            self._write_artifacts(invocation, result, cwd=Path(request.cwd), environ=environ)
        return result

    def keep(self, result: DbtResult, environ: Mapping[str, str]) -> None:
        """Keep a run whose stack ends with this process, so that it can be asked for afterwards."""
        if self.stack.check is None:
            return  # Redis keeps it
        from producer import kept_runs

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
        """The request for a command, and the file that carries the caller's environment, if any."""
        run_id = new_run_id()
        project = arguments.project_dir(invocation, cwd, environ)
        embedded_dir = self.stack.runtime_dir
        env = (
            values_to_send(invocation, self.settings, cwd=cwd, environ=environ)
            if embedded_dir is None
            else {}
        )
        request = RunRequest(
            run_id=run_id, args=tuple(invocation.args), command=invocation.command, cwd=str(cwd),
            project_dir=str(project), env=env, retry=retry or RetryPolicy(),
            return_artifacts=embedded_dir is None, required_models=required_models,
            place=folder_identity(arguments.target_path(invocation, cwd, environ)),
            priority=self.settings.priority, limits=limits or _limits(self.settings),
            debug=bool(invocation.options.get("debug")),
            description=description,
            submitted_by=f"{socket.gethostname()}:{os.getpid()}", submitted_at=time.time(),
        )  # fmt: skip
        if embedded_dir is None:
            return request, None
        env_file = _write_env(embedded_dir, run_id, environ)
        return msgspec.structs.replace(request, env_file=str(env_file)), env_file

    def _write_artifacts(
        self, invocation: Invocation, result: DbtResult, *, cwd: Path, environ: Mapping[str, str]
    ) -> None:
        """Leave run results and manifest where the caller's dbt would have left them."""
        project = arguments.project_dir(invocation, cwd, environ)
        if not project.is_dir():
            return
        target = arguments.target_path(invocation, cwd, environ)
        if result.run_results is not None and not _is_there(target / RUN_RESULTS, result.run_results):
            _replace(target / RUN_RESULTS, json.dumps(result.run_results).encode())
        for name, packed in self.client.artifacts(result.run_id, ARTIFACTS).items():
            _write_artifact(target / name, packed, result.run_id)


def run_invocation(
    invocation: Invocation,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    on_line: Callable[[str], None],
    description: str = "",
) -> DbtResult:
    """Run a validated command on whatever stack there is, line by line.

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
    """Run again what failed and was skipped in a run, line by line.

    Raises:
        as `Follower.retry`.
    """
    from producer.kept_runs import kept_run

    follower = Follower(find_stack(environ), read_settings(environ))
    earlier = kept_run(environ, run_id)
    if earlier is not None:
        follower.client.restore(run_id, earlier.fields)
    result = follower.retry(run_id, args, environ=environ, on_event=_lines_to(on_line))
    follower.keep(result, environ)
    return result


def _lines_to(on_line: Callable[[str], None]) -> Callable[[Event], None]:
    """Passes dbt's lines on. What dbt has no line for goes to stderr: a node that waits for another run, hooks
    that may have been executed twice, and events that are no longer kept."""

    def heard(event: Event) -> None:
        if event.kind == LINE and event.stream == STDERR:
            sys.stderr.write(f"{event.text}\n")
            sys.stderr.flush()
        elif event.kind == LINE:
            on_line(event.text)
        elif event.state == WAITING:
            say(sys.stderr, f"dbt-relay: {waiting_for(event.node, event.text)}")
        elif event.state in (REPEATED, MISSING):
            say(sys.stderr, f"dbt-relay: warning: {event.text}")

    return heard


def _limits(settings: Settings) -> Limits:
    return Limits(
        soft_time_limit=settings.node_soft_time_limit, time_limit=settings.node_time_limit,
        deadline=settings.run_deadline,
    )  # fmt: skip


def _write_env(runtime_dir: Path, run_id: str, environ: Mapping[str, str]) -> Path:
    """The caller's environment and surroundings for an embedded worker: a file that only this user can read."""
    raw = encode_environment({**environ, **encode_process_attributes()})
    path = runtime_dir / "env" / f"{run_id}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(raw)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _no_runtime_folder(path.parent, error) from error
    return path


def _no_runtime_folder(folder: Path, error: OSError) -> Exception:
    from producer.embedded.errors import setup_error

    return setup_error(
        "runtime_dir_unusable",
        f"The embedded stack's folder {folder} cannot be written: {error.strerror}.",
        "Run the command again: where the folder is gone, a new stack is started. If a program that cleans "
        "temporary folders removed it, set DBT_RELAY_RUNTIME_DIR to a folder elsewhere.",
    )


def _write_artifact(path: Path, packed: bytes, run_id: str) -> None:
    try:
        content = unpack(packed)
    except UnpackError as error:
        log("an artifact is not readable, it is left out", level=logging.WARNING, run=run_id,
            artifact=path.name, error=str(error))  # fmt: skip
    else:
        _replace(path, content)


def _is_there(path: Path, run_results: Mapping[str, Any]) -> bool:
    """Whether a worker of this machine has written these results here itself."""
    try:
        return bool(json.loads(path.read_bytes()) == run_results)
    except (OSError, ValueError):
        return False


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
