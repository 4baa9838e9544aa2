"""The engine's one door: plan, start, node, close and command, over this process's warm contexts."""

from __future__ import annotations

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
from workers.engine.execution.failure import classify_command
from workers.engine.execution.node import execute_node
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

MAX_VIEWS = 8


class CommandFailedError(Exception):
    """dbt gave the command up (exit code 2). `finished` is how the run ends."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(finished.error.message if finished.error else "dbt gave the command up")
        self.finished = finished


class Engine:
    """dbt in this process. One step at a time: dbt's own state is the process's."""

    def __init__(
        self,
        shared: SharedContexts,
        worker: str = "",
        contexts: int = 8,
        exiting: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            exiting: whether the process was told to end: a SystemExit is not dbt's then.
        """
        self._exiting = exiting
        self._contexts = ContextStore(shared, contexts)
        self._views: OrderedDict[str, RunState] = OrderedDict()
        self._most_views = max(MAX_VIEWS, contexts)
        self._worker = worker

    # -- steps -------------------------------------------------------------------------------------

    def plan(
        self, spec: RunSpec, emit: OnEvent, attempt: int = 1, previous: PreviousResults | None = None
    ) -> Plan:
        """Parse if anything changed, and let dbt select.

        Args:
            previous: run results of an earlier run, of which this one repeats what failed.

        Raises:
            CommandFailedError: dbt refuses project, profile, arguments or selection.
        """
        with self._step(spec, "@plan", emit, attempt) as seen:
            try:
                with (
                    self._sink.buffered_until_success(),
                    redirect_stdout(io.StringIO()),
                ):  # the whole command prints the same again
                    click_context, flags = parse_flags(seen.args)
            except (DbtUsageException, click.exceptions.Exit, click.Abort):
                return _whole("dbt prints its own answer to the arguments: help, a version, or what is wrong")
            if previous is not None and previous_command(previous) not in TASKS:
                use_flags(flags)
                warehouse = warehouse_of(read_configuration(click_context))
                return _whole("what is repeated is not made of nodes", warehouse)
            self._sink.configure(flags)
            use_flags(flags)
            preflight(click_context, flags)
            console, retry, again = flags, None, frozenset[str]()
            if previous is not None:
                retry, again = plan_retry(flags, previous)
                click_context, flags = parse_flags(arguments(click_context, flags, retry))
                discard_reported_deprecations(flags)
                use_flags(flags)
            with missing_values_at_end():
                context, config = self._contexts.open(seen, click_context, flags)
            with uncollected():
                view = build_run_state(seen.run_id, flags, config, context, console)
                self._keep(view)
                check_models(view.manifest, config, seen.required_models)
                return make_plan(view, retry, again)

    def start(self, spec: RunSpec, facts: RunFacts, emit: OnEvent, attempt: int = 1) -> StepOutcome:
        """What dbt does once before the first node.

        Raises:
            CommandFailedError: as dbt gives a command up whose schemas or hooks cannot be made.
        """
        with self._step(spec, "@start", emit, attempt) as seen:
            view = self._view(seen, facts)
            view.templates.begin(view.copy_hooks)
            with uncollected():
                outcome = start_run(view)
            outcome.cache += view.recorder.take_changes() + view.templates.take_changes()
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
        attempt: int = 1,
        skip: bool = False,
        stale: bool = False,
        cause: StepResult | None = None,
        time_limit_message: Callable[[], str | None] = lambda: None,
    ) -> StepOutcome:
        """Execute or skip one node.

        Args:
            changes: the run's relation cache changes from a position on.
            stale: another run may have made or dropped the node's relation since this one began.
            time_limit_message: what to say where the node took longer than it may.

        Raises:
            CommandFailedError: the worker's project is not the one that was planned.
        """
        with self._step(spec, unique_id, emit, attempt) as seen:
            view = self._view(seen, facts)
            refreshed: tuple[str, ...] = ()
            told = view.recorder.replay(changes(view.recorder.position))
            view.templates.begin(lambda: (unique_id, *view.inlined_models), told)
            if (attempt > 1 or stale) and not skip:
                refreshed = (self._refresh_cache(view),)
            outcome = execute_node(
                view, unique_id, index, skip=skip, cause=cause, time_limit_message=time_limit_message
            )
            outcome.cache = refreshed + view.recorder.take_changes() + view.templates.take_changes()
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
        """What dbt does once after the last node."""
        with self._step(spec, "@close", emit, attempt) as seen:
            view = self._view(seen, facts)
            view.templates.begin(tuple, view.recorder.replay(changes(view.recorder.position)))
            finished = close_run(view, started, results, stop=stop)
            postflight(view.console.WHICH, view.console, spec.started_at, success=not finished.return_code)
            return finished

    def command(
        self,
        spec: RunSpec,
        command: str,
        emit: OnEvent,
        attempt: int = 1,
        previous: PreviousResults | None = None,
    ) -> Finished:
        """Execute a command whole. `previous`: see `plan`."""
        with self._step(spec, "@command", emit, attempt) as seen:
            return commands.execute_command(seen, command, self._sink, previous, exiting=self._exiting)

    def warehouse(self, spec: RunSpec, command: str) -> str | None:
        """The single-process warehouse that a whole command needs, or None.

        Arguments, a project or a profile that dbt refuses need none: the command reports the error.
        """
        if command in commands.WITHOUT_WAREHOUSE:
            return None
        with self._quiet_step(spec), redirect_stdout(io.StringIO()):
            try:
                click_context, flags = parse_flags(spec.args)
                use_flags(flags)
                config = read_configuration(click_context)
                return warehouse_of(config)
            except Exception:  # noqa: BLE001 - whatever it is, the command meets it again and reports it
                return None
            except SystemExit:
                if self._exiting():
                    raise
                return None

    @contextmanager
    def fenced(self, execution: StepExecution) -> Iterator[None]:
        """What is executed within belongs to this execution, at the warehouse too (`fencing`)."""
        with fencing.fenced(execution):
            yield

    # -- from outside a step -----------------------------------------------------------------------

    def cancel(self) -> None:
        """Interrupt the queries of the step that is executing. Called from another thread."""
        for view in list(self._views.values()):
            if view.pool is not None:
                view.pool.close()  # dbt then begins no further batch
        cancel_queries()

    def has_files_open(self) -> bool:
        """Whether this process has the DuckDB files of a run open by now."""
        return duckdb_is_open()

    def release(self) -> None:
        """Close every connection: a DuckDB file is free for others afterwards."""
        close_warehouse()

    def forget(self, run_id: str) -> None:
        """Drop what this process holds of a run (its next step starts from the ledger)."""
        self._views.pop(run_id, None)

    # -- inside ------------------------------------------------------------------------------------

    def _view(self, spec: RunSpec, facts: RunFacts) -> RunState:
        view = self._views.get(spec.run_id)
        if view is None:
            with self._sink.muted():  # the plan said it
                click_context, flags = parse_flags(spec.args)
                discard_reported_deprecations(flags)
                console = flags
                if facts.retry is not None:
                    click_context, flags = parse_flags(arguments(click_context, flags, facts.retry))
                    discard_reported_deprecations(flags)
                use_flags(flags)
                context, config = self._contexts.attach(spec, click_context, flags, facts.context_key)
                view = build_run_state(spec.run_id, flags, config, context, console)
                self._keep(view)
        self._sink.configure(view.console)
        view.use()
        if view.facts is None:
            with self._sink.muted():  # the start step says it
                view.apply_plan(facts)
        elif facts.began and not view.facts.began:
            view.facts = facts
        return view

    def _keep(self, view: RunState) -> None:
        self._views[view.run_id] = view
        self._views.move_to_end(view.run_id)
        while len(self._views) > self._most_views:
            self._views.popitem(last=False)

    def _refresh_cache(self, view: RunState) -> str:
        """Ask the warehouse: whoever tried before may have died in the middle of its changes, and what
        another run did is in nobody's cache."""
        adapter = view.context.adapter
        with adapter.connection_named("master"):
            view.recorder.cache.clear()
            view.task.populate_adapter_cache(adapter)
        return view.recorder.snapshot()

    def _leave_manifest(self, spec: RunSpec) -> None:
        """dbt wrote its manifest when it had parsed, long before it gave the command up."""
        view = self._views.get(spec.run_id)
        if view is not None and view.flags.WRITE_JSON:
            write_manifest(view, set())

    @contextmanager
    def _step(self, spec: RunSpec, step: str, emit: OnEvent, attempt: int) -> Iterator[RunSpec]:
        self._sink = LineSink(
            None, spec.run_id, step, emit, debug=spec.debug, file_log=spec.file_log, attempt=attempt,
            worker=self._worker,
        )  # fmt: skip
        try:
            with dbt_invocation(spec, self._sink) as seen:
                try:
                    yield seen
                except CommandFailedError:
                    raise
                except click.UsageError as error:  # click says it on stderr, and so does our caller
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
                    self._leave_manifest(spec)
                    flags = self._sink.flags
                    postflight(getattr(flags, "WHICH", ""), flags, spec.started_at, success=False)
                    raise CommandFailedError(self._finished(error, spec)) from error
                finally:
                    template_calls.leave()
        except OSError as error:
            # the caller's working directory is not on this machine
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
        view = self._views.get(spec.run_id)
        if view is not None and view.run_results is not None:
            finished.run_results = view.run_results
            finished.target_path = view.config.project_target_path
        return finished


def _whole(why: str, warehouse: str | None = None) -> Plan:
    facts = RunFacts(context_key="", selected=(), flattened=(), total=0)
    return Plan(facts=facts, nodes=(), threads=1, warehouse=warehouse, whole=why)
