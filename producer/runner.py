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
from producer.dbt_cli.arguments import Invocation, check_project, parse_invocation, with_vars
from producer.dbt_cli.options import Table
from producer.dbt_cli.project import PROJECT_FILE
from producer.dbt_cli.tables import judged
from producer.session import Follower, find_stack
from producer.usage_errors import usage_error
from workers.contract.events import LINE, STDERR, Event
from workers.contract.messages import Limits
from workers.contract.results import DbtResult, NodeResult
from workers.contract.settings import read_settings

OnLine = Callable[[str], None]

DEFAULT_WORKING_DIR = Path("dbt")


class DbtRunner:
    """Runs dbt commands on a project. Safe to call from many threads at once.

    With ``DBT_RELAY_BROKER_URL`` or ``REDIS_URL`` set, commands go there; otherwise to the warm stack
    of ``dbt-relay up``; otherwise this process gets a private server and workers, which end with it.
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
            working_dir: the dbt project; commands run with it as working directory. Default: the folder ``dbt``
                in the current one, or the current one where there is no such folder.
            threads: how many nodes of one command may run at once (dbt's ``--threads``); None: as the profile says.
            broker_url: Redis; overrides the environment.
            workers: worker processes of a private stack.
            retry: how passing failures are tried again: a `RetryPolicy`; a number of attempts in all; False for
                one attempt.
            limits: time limits of nodes and runs; default what ``DBT_RELAY_NODE_TIME_LIMIT``,
                ``DBT_RELAY_NODE_SOFT_TIME_LIMIT`` and ``DBT_RELAY_RUN_DEADLINE`` say.
            environ: the environment that dbt sees; default this process's at the time of each call.
            on_event: called with every event of every command, in the order of each run.

        Raises:
            DbtUsageError: `threads`, `retry` or `limits` is not what it can be.
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
            description: for people who watch.
            simulation_year: becomes the var of that name.
            dbt_vars: further ``--vars``.
            stream_output: print dbt's lines as they come, or hand them to `on_line`.
            on_line: called with each line of dbt's console, live.
            retry: how passing failures of this command are tried again, in place of the runner's.
            max_attempts: executions of each node in all, in place of the policy's.
            threads: how many nodes of this command may run at once, in place of the runner's.
            limits: time limits of this command and its nodes.
            required_models: model names that the project must have.

        Returns:
            dbt's result; a failed command is a result with ``success`` False, not an exception.

        Raises:
            DbtUsageError: the command cannot be what the caller meant; nothing was queued.
            RelayError: Redis or workers are not there.

        With any other exception than these, such as one of `on_line` or of a signal's handler, the run is cancelled.
        """
        policy = retry_policy(retry, max_attempts, default=self._retry)
        limits = checked_limits(limits) or self._limits
        environ = self._environment()
        cwd = self._working_directory()
        wanted = checked_threads(threads)

        def read(table: Table) -> Invocation:
            args = with_vars(command_args, simulation_year, dbt_vars, table=table)
            invocation = parse_invocation(args, environ=environ, cwd=cwd, table=table)
            number = _threads_for(invocation, wanted, self.threads)
            if number is not None:
                end = args.index("--") if "--" in args else len(args)
                args = [*args[:end], "--threads", str(number), *args[end:]]
                invocation = parse_invocation(args, environ=environ, cwd=cwd, table=table)
            return invocation

        invocation = judged(read, environ)
        if not (invocation.wants_help or invocation.wants_version):
            check_project(invocation, cwd=cwd, environ=environ)
        return self._following(environ).run(
            invocation, cwd=cwd, environ=environ, on_event=self._ear(stream_output, on_line),
            description=description, retry=policy, limits=limits, required_models=required_models,
        )  # fmt: skip

    def _working_directory(self) -> Path:
        """The folder that commands run in.

        Raises:
            DbtUsageError: it is not there.
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
            f"There is no folder {folder}, which DbtRunner was given as the dbt project.",
            "Give the folder that holds dbt_project.yml: DbtRunner('path/to/project').",
        )

    def _environment(self) -> dict[str, str]:
        environ = dict(os.environ if self._environ is None else self._environ)
        if self._broker_url:
            environ["DBT_RELAY_BROKER_URL"] = self._broker_url
        return environ

    def _ear(self, stream_output: bool, on_line: OnLine | None) -> Callable[[Event], None]:
        say = on_line or _print

        def heard(event: Event) -> None:
            if event.kind == LINE and event.stream == STDERR:
                if stream_output and on_line is None:
                    sys.stderr.write(f"{event.text}\n")
                    sys.stderr.flush()
            elif event.kind == LINE and (stream_output or on_line is not None):
                say(event.text)
            if self._on_event is not None:
                self._on_event(event)

        return heard

    def retry(
        self,
        run_id: str,
        options: Sequence[str] = (),
        stream_output: bool = True,
        on_line: OnLine | None = None,
    ) -> DbtResult:
        """Run again what failed and was skipped in an earlier run, as ``dbt retry`` would.

        Args:
            run_id: `DbtResult.run_id` of the earlier run, whoever submitted it.
            options: of ``dbt retry``, such as ``["--vars", "{year: 2026}"]``.
            stream_output, on_line: as in `execute_command`.

        Raises:
            DbtUsageError: it is still going, or it cannot be retried.
            RelayError: there is no such run (any more); Redis or workers are not there.
        """
        environ = self._environment()
        return self._following(environ).retry(
            run_id, ["retry", *options], environ=environ, on_event=self._ear(stream_output, on_line),
            description=f"Retrying {run_id}", limits=self._limits,
        )  # fmt: skip

    def run_model(self, name: str, **kwargs: Any) -> DbtResult:
        """Run one model: ``dbt run --select name``.

        Raises:
            DbtUsageError: the project has no such model (with the nearest names).
            as `execute_command`, whose keywords are taken.
        """
        kwargs.setdefault("description", f"Running model {name}")
        result = self.execute_command(["run", "--select", name], required_models=(name,), **kwargs)
        _raise_usage(result)
        return result

    def run_models(self, models: Sequence[str], parallel: bool = False, **kwargs: Any) -> list[DbtResult]:
        """Run several models; one result each, in their order.

        Args:
            parallel: as one run, whose independent models start at once (as many as `threads`);
                otherwise one after another.

        Raises:
            as `run_model`; no model runs when one of the names is unknown.
        """
        names = list(models)
        if not names:
            return []
        kwargs.setdefault("description", f"Running {len(names)} models")
        if not parallel:
            return [self._one_of(name, tuple(names), kwargs) for name in names]
        result = self.execute_command(["run", "--select", *names], required_models=tuple(names), **kwargs)
        _raise_usage(result)
        return [_part(result, name) for name in names]

    def _one_of(self, name: str, names: tuple[str, ...], kwargs: Mapping[str, Any]) -> DbtResult:
        result = self.execute_command(["run", "--select", name], required_models=names, **kwargs)
        _raise_usage(result)
        return result

    def _following(self, environ: Mapping[str, str]) -> Follower:
        with self._lock:
            if self._follower is None or self._owner != os.getpid():
                settings = read_settings(environ)
                self._follower = Follower(find_stack(environ, workers=self._workers), settings)
                self._owner = os.getpid()
            return self._follower


def _print(line: str) -> None:
    """Print a line of dbt. A stdout that takes nothing does not stop the run, as it does not stop dbt's."""
    with contextlib.suppress(OSError, ValueError):
        print(line)  # noqa: T201 - it is asked for with `stream_output`


def _threads_for(invocation: Invocation, wanted: int | None, default: int | None) -> int | None:
    """What to add as ``--threads``: None where the command does not know it, or has it already.

    Raises:
        DbtUsageError: the command has another number than `wanted`.
    """
    table, name = invocation.table, invocation.command
    if name not in table.command_names() or not any(
        each.name == "threads" for each in table.command(name).options
    ):
        return None
    given = invocation.options.get("threads")
    if given is None:
        return wanted or default
    if "threads" in invocation.environment:  # DBT_THREADS, which the command line goes before
        return wanted
    if wanted is not None and given != wanted:
        raise usage_error(
            "contradicting_threads", f"The command says --threads {given}, and threads={wanted} was given too.",
            "Give one of them.",
        )  # fmt: skip
    return None


def _raise_usage(result: DbtResult) -> None:
    from workers.contract.errors import Category, exception_of

    if result.error is not None and result.error.category == Category.USAGE.value:
        raise exception_of(result.error)


def _part(result: DbtResult, name: str) -> DbtResult:
    """What a run of several models gave for one of them."""
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
