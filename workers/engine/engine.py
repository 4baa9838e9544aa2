"""Executes the steps of runs with warm, in-process dbt: plan, start, node, close and command."""

from __future__ import annotations

import functools
import io
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import click
from dbt.cli.exceptions import DbtUsageException
from dbt.events.types import MainEncounteredError, MainStackTrace
from dbt_common.events.functions import fire_event
from dbt_common.exceptions import DbtBaseException

from workers.contract.errors import DbtUsageError, ErrorInfo
from workers.engine.caller.invocation import (
    dbt_invocation,
    discard_reported_deprecations,
    parse_flags,
    postflight,
    preflight,
    use_flags,
)
from workers.engine.caller.missing_environment import missing_values_at_end
from workers.engine.execution import command as commands
from workers.engine.execution.artifacts import write_manifest
from workers.engine.execution.close import close_run
from workers.engine.execution.current_graph import Results
from workers.engine.execution.failure import classify_command
from workers.engine.execution.node import apply_result, execute_node
from workers.engine.execution.plan import check_models, make_plan
from workers.engine.execution.retry import PreviousResults, arguments, plan_retry, previous_command
from workers.engine.execution.run_state import TASKS, RunState, build_run_state
from workers.engine.execution.start import start_run
from workers.engine.interface import (
    Finished,
    OnEvent,
    Plan,
    RunFacts,
    RunSpec,
    SharedContexts,
    StepOutcome,
    StepResult,
)
from workers.engine.output.events import LineSink
from workers.engine.project.configuration import read_configuration
from workers.engine.project.context import ContextStore, ProjectMismatchError
from workers.engine.project.packing import uncollected
from workers.engine.template_state import calls as template_calls
from workers.engine.warehouse import fencing
from workers.engine.warehouse.concurrency import cancel_queries, close_warehouse, duckdb_is_open, warehouse_of
from workers.engine.warehouse.fencing import StepExecution

MIN_RUNS = 8
"""A process keeps the state of at least so many runs."""


class CommandFailedError(Exception):
    """dbt ended the command with exit code 2.

    Attributes:
        finished: the end of the run.
    """

    def __init__(self, finished: Finished) -> None:
        super().__init__(finished.error.message if finished.error else "dbt ended the command")
        self.finished = finished


class Engine:
    """dbt in this process. It executes one step at a time, because dbt keeps its state in module variables."""

    def __init__(
        self,
        shared: SharedContexts,
        worker: str = "",
        contexts: int = 8,
        exiting: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            shared: where processes share parsed manifests.
            worker: name of this process, in results and events.
            contexts: how many parsed projects to keep, at most.
            exiting: whether the process was told to end. A SystemExit does not come from dbt then.
        """
        self._exiting = exiting
        self._contexts = ContextStore(shared, contexts)
        self._runs: OrderedDict[str, RunState] = OrderedDict()
        self._max_runs = max(MIN_RUNS, contexts)
        self._worker = worker

    # -- steps -------------------------------------------------------------------------------------

    def plan(
        self, spec: RunSpec, emit: OnEvent, attempt: int = 1, previous: PreviousResults | None = None
    ) -> Plan:
        """Parse the project if anything changed, and select nodes with dbt.

        Args:
            spec: the run.
            emit: called with each event.
            attempt: number of this execution of the step, from 1.
            previous: run results of an earlier run, whose failed nodes this run repeats.

        Raises:
            CommandFailedError: dbt refuses project, profile, arguments or selection.
        """
        with self._step(spec, "@plan", emit, attempt) as full_spec:
            try:
                # the whole command prints the same again
                with self._sink.buffered_until_success(), redirect_stdout(io.StringIO()):
                    click_context, flags = parse_flags(full_spec.args)
            except (DbtUsageException, click.exceptions.Exit, click.Abort):
                return _whole("dbt answers the arguments itself: help, a version, or an error")
            if previous is not None and previous_command(previous) not in TASKS:
                use_flags(flags)
                warehouse = warehouse_of(read_configuration(click_context))
                return _whole("the repeated command does not consist of nodes", warehouse)
            self._sink.configure(flags)
            use_flags(flags)
            preflight(click_context, flags)
            console, retry, node_ids = flags, None, frozenset[str]()
            if previous is not None:
                retry, node_ids = plan_retry(flags, previous)
                click_context, flags = parse_flags(arguments(click_context, flags, retry))
                discard_reported_deprecations(flags)
                use_flags(flags)
            with missing_values_at_end():
                context, config = self._contexts.open(full_spec, click_context, flags)
            with uncollected():
                run = build_run_state(full_spec.run_id, flags, config, context, console)
                self._keep(run)
                check_models(run.manifest, config, full_spec.required_models)
                return make_plan(run, retry, node_ids)

    def start(self, spec: RunSpec, facts: RunFacts, emit: OnEvent, attempt: int = 1) -> StepOutcome:
        """Do what dbt does once before the first node: schemas, relation cache, on-run-start hooks.

        Raises:
            CommandFailedError: dbt cannot create a schema or execute a hook.
        """
        with self._step(spec, "@start", emit, attempt) as full_spec:
            run = self._run_state(full_spec, facts)
            run.templates.begin(run.copy_hooks)
            with uncollected():
                outcome = start_run(run)
            outcome.cache += run.recorder.take_changes() + run.templates.take_changes()
            return outcome

    def node(
        self,
        spec: RunSpec,
        facts: RunFacts,
        unique_id: str,
        index: int,
        emit: OnEvent,
        *,
        changes: Callable[[int], list[bytes]],
        finished: Results = lambda _: (),
        attempt: int = 1,
        skip: bool = False,
        stale: bool = False,
        cause: StepResult | None = None,
        time_limit_message: Callable[[], str | None] = lambda: None,
    ) -> StepOutcome:
        """Execute or skip one node.

        Args:
            unique_id: dbt's id of the node.
            index: dbt's number of the node in the run.
            changes: returns the changes of the run's relation cache from a position on.
            finished: returns the results of the run's finished attempts from a position on. Called only if a template
                looks at `graph`, and from dbt-core 1.12 on.
            attempt: number of this execution of the step, from 1.
            skip: a parent failed.
            stale: another run may have created or dropped the node's relation since this run began.
            cause: the result because of which the node is skipped.
            time_limit_message: returns the error text once the node has exceeded its time limit, else None.

        Raises:
            CommandFailedError: the worker's project is not the one that was planned.
        """
        with self._step(spec, unique_id, emit, attempt) as full_spec:
            run = self._run_state(full_spec, facts)
            refreshed: tuple[str, ...] = ()
            template_changes = run.recorder.replay(changes(run.recorder.position))
            run.templates.begin(lambda: (unique_id, *run.inlined_models), template_changes)
            if (attempt > 1 or stale) and not skip:
                refreshed = (self._refresh_cache(run),)
            with run.current_graph.reading(finished, functools.partial(apply_result, run)):
                outcome = execute_node(
                    run, unique_id, index, skip=skip, cause=cause, time_limit_message=time_limit_message
                )
            outcome.cache = refreshed + run.recorder.take_changes() + run.templates.take_changes()
            outcome.result.worker = self._worker
            return outcome

    def close(
        self,
        spec: RunSpec,
        facts: RunFacts,
        started: StepResult | None,
        results: Sequence[StepResult],
        emit: OnEvent,
        *,
        changes: Callable[[int], list[bytes]],
        stop: str | None = None,
        attempt: int = 1,
    ) -> Finished:
        """Do what dbt does once after the last node: on-run-end hooks, summary, artifacts.

        Args:
            started: result of the start step; None if there was nothing to run.
            results: results of all nodes, in the order in which they finished.
            changes: see `node`.
            stop: ``fail_fast``, or why the run was cancelled; None otherwise.
        """
        with self._step(spec, "@close", emit, attempt) as full_spec:
            run = self._run_state(full_spec, facts)
            run.templates.begin(tuple, run.recorder.replay(changes(run.recorder.position)))
            finished = close_run(run, started, results, stop=stop)
            postflight(run.console.WHICH, run.console, spec.started_at, success=not finished.return_code)
            return finished

    def command(
        self,
        spec: RunSpec,
        command: str,
        emit: OnEvent,
        attempt: int = 1,
        previous: PreviousResults | None = None,
    ) -> Finished:
        """Execute a whole command in this process. `previous`: see `plan`."""
        with self._step(spec, "@command", emit, attempt) as full_spec:
            return commands.execute_command(full_spec, command, self._sink, previous, exiting=self._exiting)

    def warehouse(self, spec: RunSpec, command: str) -> str | None:
        """The single-process warehouse that a whole command needs, or None.

        Also None where dbt refuses arguments, project or profile: the command reports the error.
        """
        if command in commands.WITHOUT_WAREHOUSE:
            return None
        with self._quiet_step(spec), redirect_stdout(io.StringIO()):
            try:
                click_context, flags = parse_flags(spec.args)
                use_flags(flags)
                config = read_configuration(click_context)
                return warehouse_of(config)
            except Exception:  # noqa: BLE001 - the command meets the same error and reports it
                return None
            except SystemExit:
                if self._exiting():
                    raise
                return None

    @contextmanager
    def fenced(self, execution: StepExecution) -> Iterator[None]:
        """Fence the connections of the step that is executed within (`warehouse.fencing`)."""
        with fencing.fenced(execution):
            yield

    # -- from outside a step -----------------------------------------------------------------------

    def cancel(self) -> None:
        """Interrupt the queries of the step that is executing. Called from another thread."""
        for run in list(self._runs.values()):
            if run.pool is not None:
                run.pool.close()  # a microbatch model starts no further batch after this
        cancel_queries()

    def has_files_open(self) -> bool:
        """Whether this process has a DuckDB file of a run open."""
        return duckdb_is_open()

    def release(self) -> None:
        """Close all connections, so that other processes can open the DuckDB file."""
        close_warehouse()

    def forget(self, run_id: str) -> None:
        """Drop the state of a run in this process. Its next step starts from the ledger."""
        self._runs.pop(run_id, None)

    # -- inside ------------------------------------------------------------------------------------

    def _run_state(self, spec: RunSpec, facts: RunFacts) -> RunState:
        run = self._runs.get(spec.run_id)
        if run is None:
            with self._sink.muted():  # the plan step logged the same
                click_context, flags = parse_flags(spec.args)
                discard_reported_deprecations(flags)
                console = flags
                if facts.retry is not None:
                    click_context, flags = parse_flags(arguments(click_context, flags, facts.retry))
                    discard_reported_deprecations(flags)
                use_flags(flags)
                context, config = self._contexts.attach(spec, click_context, flags, facts.context_key)
                run = build_run_state(spec.run_id, flags, config, context, console)
                self._keep(run)
        self._sink.configure(run.console)
        run.use()
        if run.facts is None:
            with self._sink.muted():  # the start step logs the same
                run.apply_plan(facts)
        elif facts.began and not run.facts.began:
            run.facts = facts
        return run

    def _keep(self, run: RunState) -> None:
        self._runs[run.run_id] = run
        self._runs.move_to_end(run.run_id)
        while len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def _refresh_cache(self, run: RunState) -> str:
        """Fill the cache from the warehouse: an earlier attempt may have died amid its changes, and no cache has the
        changes of another run."""
        adapter = run.context.adapter
        with adapter.connection_named("master"):
            run.recorder.cache.clear()
            run.task.populate_adapter_cache(adapter)
        return run.recorder.snapshot()

    def _write_parsed_manifest(self, spec: RunSpec) -> None:
        """Write the manifest of a failed command: dbt writes it right after parsing."""
        run = self._runs.get(spec.run_id)
        if run is not None and run.flags.WRITE_JSON:
            write_manifest(run, set())

    @contextmanager
    def _step(self, spec: RunSpec, step: str, emit: OnEvent, attempt: int) -> Iterator[RunSpec]:
        self._sink = LineSink(
            None, spec.run_id, step, emit, debug=spec.debug, file_log=spec.file_log, attempt=attempt,
            worker=self._worker,
        )  # fmt: skip
        try:
            with dbt_invocation(spec, self._sink) as full_spec:
                try:
                    yield full_spec
                except CommandFailedError:
                    raise
                except click.UsageError as error:  # click prints it to stderr, and so does the producer
                    raise CommandFailedError(self._finished(error, spec)) from error
                except (DbtUsageError, ProjectMismatchError) as error:
                    self._sink.line(f"Error: {error}", level="error")
                    raise CommandFailedError(self._finished(error, spec)) from error
                except (Exception, SystemExit) as error:
                    if isinstance(error, SystemExit) and self._exiting():
                        raise
                    # as dbt.cli.requires.postflight reports what ends a command
                    fire_event(MainEncounteredError(exc=str(error)))
                    if not isinstance(error, DbtBaseException):
                        fire_event(MainStackTrace(stack_trace=traceback.format_exc()))
                    self._write_parsed_manifest(spec)
                    flags = self._sink.flags
                    postflight(getattr(flags, "WHICH", ""), flags, spec.started_at, success=False)
                    raise CommandFailedError(self._finished(error, spec)) from error
                finally:
                    template_calls.leave()
        except OSError as error:
            # this worker cannot enter the caller's working directory, or cannot read its .env file
            self._sink.line(f"Error: {error}", level="error")
            raise CommandFailedError(self._finished(error, spec)) from error

    @contextmanager
    def _quiet_step(self, spec: RunSpec) -> Iterator[None]:
        sink = LineSink(None, spec.run_id, "", lambda _: None)
        with dbt_invocation(spec, sink):
            yield

    def _finished(self, error: BaseException, spec: RunSpec) -> Finished:
        info: ErrorInfo = classify_command(error, next(iter(spec.args), ""))
        finished = Finished(return_code=2, error=info)
        run = self._runs.get(spec.run_id)
        if run is not None and run.run_results is not None:
            finished.run_results = run.run_results
            finished.target_path = run.config.project_target_path
        return finished


def _whole(why: str, warehouse: str | None = None) -> Plan:
    facts = RunFacts(context_key="", selected=(), flattened=(), total=0)
    return Plan(facts=facts, nodes=(), threads=1, warehouse=warehouse, whole=why)
