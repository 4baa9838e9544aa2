"""DbtRunner: dbt commands from a Python script, on warm workers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from producer.call_options import Retry, checked_limits, checked_threads, retry_policy
from producer.dbt_cli.arguments import parse_with_threads, with_vars
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import Table
from producer.dbt_cli.project import PROJECT_FILE, check_project
from producer.dbt_cli.tables import read_with_tables
from producer.session import Follower
from producer.stacks import find_stack
from producer.usage_errors import usage_error
from producer.worker_tables import worker_tables
from workers.contract.events import LINE, STDERR, Event
from workers.contract.messages import Limits
from workers.contract.results import DbtResult, NodeResult
from workers.contract.settings import read_settings

OnLine = Callable[[str], None]

DEFAULT_WORKING_DIR = Path("dbt")


class DbtRunner:
    """Runs dbt commands on a project. Safe to use from several threads at once.

    Commands go to the broker of ``DBT_RELAY_BROKER_URL`` or ``REDIS_URL``; else to the warm stack of
    ``dbt-relay up``; else to a private server with workers, which end with this process.
    """

    def __init__(
        self,
        working_dir: Path | str = DEFAULT_WORKING_DIR,
        threads: int | None = 4,
        *,
        broker_url: str | None = None,
        workers: int | None = None,
        retry: Retry | None = None,
        limits: Limits | None = None,
        environ: Mapping[str, str] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """
        Args:
            working_dir: folder of the dbt project, and the working directory of its commands. Default: the folder
                ``dbt`` of the current one, or the current one where there is no such folder.
            threads: how many nodes of one command may run at once (dbt's ``--threads``); None: the profile's number.
            broker_url: URL of Redis; overrides the environment.
            workers: number of worker processes of a private stack.
            retry: retries of transient failures: a `RetryPolicy`; a number of attempts in all; False for one attempt.
            limits: time limits of nodes and runs; default those of ``DBT_RELAY_NODE_TIME_LIMIT``,
                ``DBT_RELAY_NODE_SOFT_TIME_LIMIT`` and ``DBT_RELAY_RUN_DEADLINE``.
            environ: the environment of dbt; default that of this process at the time of each call.
            on_event: called with every event of every command, in the order of each run.

        Raises:
            DbtUsageError: `threads`, `retry` or `limits` has an invalid type or value.
        """
        self._is_default_dir = working_dir is DEFAULT_WORKING_DIR
        self.working_dir = Path(working_dir)
        self.threads = checked_threads(threads)
        self._broker_url = broker_url
        self._workers = workers
        self._retry = retry_policy(retry)
        self._limits = checked_limits(limits)
        self._environ = environ
        self._on_event = on_event
        self._follower: Follower | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def execute_command(
        self,
        command_args: Sequence[str],
        description: str = "Running dbt command",
        simulation_year: int | None = None,
        dbt_vars: Mapping[str, Any] | None = None,
        stream_output: bool = True,
        on_line: OnLine | None = None,
        *,
        retry: Retry | None = None,
        max_attempts: int | None = None,
        threads: int | None = None,
        limits: Limits | None = None,
        required_models: tuple[str, ...] = (),
    ) -> DbtResult:
        """Run a dbt command to its end.

        Args:
            command_args: dbt's arguments, ``["run", "--select", "int_*"]``.
            description: shown with the run.
            simulation_year: becomes the var of that name.
            dbt_vars: further ``--vars``.
            stream_output: print dbt's lines as they arrive, or pass them to `on_line`.
            on_line: called with each line of dbt's console as it arrives.
            retry: retries of transient failures of this command, in place of the runner's.
            max_attempts: executions of each node in all, in place of the policy's.
            threads: how many nodes of this command may run at once, in place of the runner's.
            limits: time limits of this command and its nodes, in place of the runner's.
            required_models: names of models that the project must have.

        Returns:
            dbt's result. A failed command is a result with ``success`` False, not an exception.

        Raises:
            DbtUsageError: dbt would refuse the command; nothing was queued.
            RelayError: Redis cannot be reached, or no worker is connected.

        Any other exception, such as one of `on_line` or of a signal handler, cancels the run.
        """
        policy = retry_policy(retry, max_attempts, default=self._retry)
        limits = checked_limits(limits) or self._limits
        environ = self._environment()
        cwd = self._working_directory()
        threads = checked_threads(threads)

        def read(table: Table) -> Invocation:
            args = with_vars(command_args, simulation_year, dbt_vars, table=table)
            return parse_with_threads(args, threads, self.threads, environ=environ, cwd=cwd, table=table)

        invocation = read_with_tables(read, lambda: worker_tables(environ))
        if not (invocation.wants_help or invocation.wants_version):
            check_project(invocation, cwd=cwd, environ=environ)
        return self._session(environ).run(
            invocation, cwd=cwd, environ=environ, on_event=self._event_callback(stream_output, on_line),
            description=description, retry=policy, limits=limits, required_models=required_models,
        )  # fmt: skip

    def _working_directory(self) -> Path:
        """Return the folder that commands run in.

        Raises:
            DbtUsageError: it does not exist.
        """
        folder = self.working_dir.absolute()
        if self._is_default_dir and not (folder / PROJECT_FILE).is_file():
            here = Path.cwd()
            if (here / PROJECT_FILE).is_file() or not folder.is_dir():
                return here
        if folder.is_dir():
            return folder
        raise usage_error(
            "no_project",
            f"There is no folder {folder}, the working_dir of this DbtRunner.",
            "Give the folder of dbt_project.yml: DbtRunner('path/to/project').",
        )

    def _environment(self) -> dict[str, str]:
        environ = dict(os.environ if self._environ is None else self._environ)
        if self._broker_url:
            environ["DBT_RELAY_BROKER_URL"] = self._broker_url
        return environ

    def _event_callback(self, stream_output: bool, on_line: OnLine | None) -> Callable[[Event], None]:
        show = on_line or _print

        def on_event(event: Event) -> None:
            if event.kind == LINE and event.stream == STDERR:
                if stream_output and on_line is None:
                    sys.stderr.write(f"{event.text}\n")
                    sys.stderr.flush()
            elif event.kind == LINE and (stream_output or on_line is not None):
                show(event.text)
            if self._on_event is not None:
                self._on_event(event)

        return on_event

    def retry(
        self,
        run_id: str,
        options: Sequence[str] = (),
        stream_output: bool = True,
        on_line: OnLine | None = None,
        *,
        threads: int | None = None,
        max_attempts: int | None = None,
    ) -> DbtResult:
        """Run the failed and skipped nodes of an earlier run again, as ``dbt retry`` would.

        Args:
            run_id: `DbtResult.run_id` of the earlier run, which any process may have submitted.
            options: options of ``dbt retry``, such as ``["--vars", "{year: 2026}"]``.
            stream_output, on_line: as in `execute_command`.
            threads: how many nodes may run at once; default the earlier run's number.
            max_attempts: executions of each node in all; default the earlier run's policy.

        Raises:
            DbtUsageError: the run is active or cannot be retried; or an argument is invalid.
            RelayError: Redis does not know the run, or cannot be reached; or no worker is connected.
        """
        threads = checked_threads(threads)
        retry_policy(None, max_attempts)  # refuses an invalid number
        environ = self._environment()
        return self._session(environ).retry(
            run_id, ["retry", *options], environ=environ, on_event=self._event_callback(stream_output, on_line),
            description=f"Retrying {run_id}", limits=self._limits, threads=threads, max_attempts=max_attempts,
        )  # fmt: skip

    def run_model(self, name: str, **kwargs: Any) -> DbtResult:
        """Run one model: ``dbt run --select name``.

        Raises:
            DbtUsageError: the project has no such model; the text has the nearest names.
            as `execute_command`, whose keywords it accepts.
        """
        kwargs.setdefault("description", f"Running model {name}")
        result = self.execute_command(["run", "--select", name], required_models=(name,), **kwargs)
        _raise_usage(result)
        return result

    def run_models(self, models: Sequence[str], parallel: bool = False, **kwargs: Any) -> list[DbtResult]:
        """Run several models, and return one result for each, in their order.

        Args:
            parallel: run them as one command, independent models at once (up to `threads`); otherwise run one
                command for each.

        Raises:
            as `run_model`. No model runs when one of the names is unknown.
        """
        names = list(models)
        if not names:
            return []
        kwargs.setdefault("description", f"Running {len(names)} models")
        if not parallel:
            return [self._run_one(name, tuple(names), kwargs) for name in names]
        result = self.execute_command(["run", "--select", *names], required_models=tuple(names), **kwargs)
        _raise_usage(result)
        return [_part(result, name) for name in names]

    def _run_one(self, name: str, names: tuple[str, ...], kwargs: Mapping[str, Any]) -> DbtResult:
        result = self.execute_command(["run", "--select", name], required_models=names, **kwargs)
        _raise_usage(result)
        return result

    def _session(self, environ: Mapping[str, str]) -> Follower:
        with self._lock:
            if self._follower is None or self._owner != os.getpid():
                settings = read_settings(environ)
                self._follower = Follower(find_stack(environ, workers=self._workers), settings)
                self._owner = os.getpid()
            return self._follower


def _print(line: str) -> None:
    """Print a line of dbt. A closed or full stdout does not stop the run, as it does not stop dbt's."""
    with contextlib.suppress(OSError, ValueError):
        print(line)  # noqa: T201 - `stream_output`


def _raise_usage(result: DbtResult) -> None:
    from workers.contract.errors import Category, exception_of

    if result.error is not None and result.error.category == Category.USAGE.value:
        raise exception_of(result.error)


def _part(result: DbtResult, name: str) -> DbtResult:
    """Extract the result of one model from that of a run of several."""
    node = next((each for each in result.nodes if name in (each.name, each.unique_id)), None)
    if node is None:
        return dataclasses.replace(
            result, success=False, return_code=result.return_code or 1, nodes=(),
            stderr=f"{name} was not run: {result.stderr}", command=["dbt", "run", "--select", name],
        )  # fmt: skip
    entry = node.run_result
    return dataclasses.replace(
        result, success=node.success, return_code=0 if node.success else 1,
        stdout=_lines_about(result.stdout, node), stderr=node.error.message if node.error else "",
        execution_time=node.execution_time, command=["dbt", "run", "--select", name], nodes=(node,),
        error=node.error, run_results={**(result.run_results or {}), "results": [entry]},
    )  # fmt: skip


def _lines_about(stdout: str, node: NodeResult) -> str:
    return "".join(
        line for line in stdout.splitlines(keepends=True)
        if f".{node.name} " in line or f" {node.name} " in line
    )  # fmt: skip
