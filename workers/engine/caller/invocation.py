"""Sets up this process as the caller's dbt process, for the time of a step.

dbt keeps the state of an invocation in the process: argv, flags, invocation id, event manager, adapters, and what a
process inherits from its caller (`inherited`). A worker process executes one step at a time, so each step sets
this state and restores the worker's afterwards.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import click
import dbt.clients.registry
import dbt.deprecations
import dbt.deps.base
import dbt.tracking
import dbt.utils.artifact_upload
import dbt_common.invocation
import msgspec
from dbt.cli import requires
from dbt.cli.flags import Flags, args_to_context
from dbt.cli.main import cli
from dbt.deprecations import show_deprecations_summary
from dbt.events.types import CommandCompleted, FlushEvents, MainReportArgs, MainReportVersion, ResourceReport
from dbt.flags import get_flag_dict, set_flags
from dbt.selected_resources import set_selected_resources
from dbt.task import group_lookup
from dbt.version import installed as installed_version
from dbt_common.clients import jinja
from dbt_common.clients.system import get_env
from dbt_common.context import get_invocation_context, set_invocation_context
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager_client import cleanup_event_logger, get_event_manager
from dbt_common.events.functions import LOG_VERSION, fire_event, reset_metadata_vars
from dbt_common.events.helpers import get_json_string_utcnow
from dbt_common.utils import cast_dict_to_dict_of_strings
from sqlparse.engine import grouping

from workers.engine.caller.env_file import load_env_file
from workers.engine.caller.inherited import inherit_from_caller
from workers.engine.caller.missing_environment import CheckedEnvironment
from workers.engine.caller.python_modules import CallerModules
from workers.engine.interface import RunSpec
from workers.engine.output.console import StepConsole, default_logging
from workers.engine.output.events import LineSink, install_event_manager
from workers.engine.warehouse import duckdb_connections

MAIN_THREAD, NODE_THREAD = "MainThread", "Thread-1 (worker)"
"""Names of dbt's main thread and of the first thread of its pool, in results and events."""

_RELAY_PREFIX = "DBT_RELAY_"

_modules = CallerModules()
_SQLPARSE_LIMITS = {
    name: getattr(grouping, name)
    for name in ("MAX_GROUPING_DEPTH", "MAX_GROUPING_TOKENS")
    if hasattr(grouping, name)  # sqlparse >= 0.5.4
}
"""sqlparse's default limits, for commands without ``--sqlparse``."""


def dbt_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without dbt-relay's settings, which include the broker's password."""
    return {name: value for name, value in env.items() if not name.startswith(_RELAY_PREFIX)}


@contextlib.contextmanager
def dbt_invocation(spec: RunSpec, sink: LineSink) -> Iterator[RunSpec]:
    """Set up the process for a step of a run; restore it afterwards.

    Yields:
        `spec` with the environment that dbt sees, ``.env`` included.

    Raises:
        OSError: this worker cannot enter the caller's working directory, or cannot read its ``.env``.
    """
    saved_argv, thread = sys.argv, threading.current_thread()
    saved_name = thread.name
    with (
        inherit_from_caller(spec),
        _modules.for_run(spec.run_id, spec.env, spec.cwd),
        StepConsole(sink.code_line) as console,
        default_logging(),
        duckdb_connections.step(),
    ):
        sink.console = console
        sys.argv = ["dbt", *spec.args]  # dbt's invocation_command
        thread.name = MAIN_THREAD if sink.step.startswith("@") else NODE_THREAD
        try:
            full_spec = _begin_invocation(spec)
            get_event_manager().callbacks.append(sink)
            yield full_spec
        finally:
            sink.flush_records()
            cleanup_event_logger()
            sink.console = None
            thread.name = saved_name
            sys.argv = saved_argv


def _begin_invocation(spec: RunSpec) -> RunSpec:
    """Set dbt's module-level state, as its command line does. Return `spec` with the environment that dbt sees."""
    if load_env_file():
        spec = msgspec.structs.replace(spec, env=dict(os.environ))
    set_flags(Namespace(USE_COLORS=True))  # as dbt.flags begins
    set_selected_resources(set())
    group_lookup._node_id_to_group_name_map.clear()
    group_lookup._group_name_to_group_map.clear()
    _forget_earlier_commands()
    set_invocation_context({})
    env = get_env()
    if hasattr(requires, "_cross_propagate_engine_env_vars"):  # dbt-core >= 1.11
        requires._cross_propagate_engine_env_vars(env)
    get_invocation_context()._env = CheckedEnvironment(env, spec.withheld)
    dbt_common.invocation._INVOCATION_ID = spec.invocation_id
    dbt_common.invocation._INVOCATION_STARTED_AT = datetime.fromtimestamp(
        spec.started_at, timezone.utc
    ).replace(tzinfo=None)
    dbt.tracking.initialize_from_flags(False, None)
    user: Any = dbt.tracking.active_user
    user.run_started_at = datetime.fromtimestamp(spec.started_at, timezone.utc)
    install_event_manager()
    cleanup_event_logger()
    dbt.deprecations.reset_deprecations()
    dbt.deprecations.buffered_deprecations.clear()
    return spec


def _forget_earlier_commands() -> None:
    """Reset dbt's module variables that would carry over from earlier commands, and that no option resets."""
    reset_metadata_vars()  # values of DBT_ENV_CUSTOM_ENV_…
    jinja.MACRO_DEBUGGING = False  # kept by a command that has no --macro-debugging option
    _limit_sqlparse(None)
    dbt.deps.base.DOWNLOADS_PATH = None  # from DBT_DOWNLOADS_DIR, or left by a `deps` that failed
    for responses in (dbt.clients.registry._get_cached, dbt.clients.registry.index_cached):
        responses.cache.clear()  # package versions of hub.getdbt.com
    dbt.utils.artifact_upload.PRODUCED_ARTIFACTS_PATHS.clear()
    # left by a parse that failed, dbt-core >= 1.12
    deferred = getattr(get_event_manager(), "_deferred_event_groups", None)
    if deferred is not None:
        deferred.clear()
    hints = sys.modules.get("dbt.hints")
    if hints is not None:  # the time of the last hint: other processes show hints, too
        hints._read_hint_ts.cache_clear()


def _limit_sqlparse(options: Mapping[str, Any] | None) -> None:
    """Set sqlparse's limits as ``--sqlparse`` does (dbt.cli.option_types); None restores the defaults."""
    for name, default in _SQLPARSE_LIMITS.items():
        value: Any = default if options is None else options.get(name)
        setattr(grouping, name, None if str(value).lower() == "none" else int(value))


def inherit_help_names(group: click.Group = cli) -> None:
    """Set ``help_option_names`` of a group on each of its commands, so that ``-h`` keeps working.

    `args_to_context` creates a command's context without its parent, and click caches the help option of the first
    context. Without this, ``-h`` would be unknown in this process from then on.
    """
    for command in group.commands.values():
        command.context_settings.setdefault("help_option_names", group.context_settings["help_option_names"])
        if isinstance(command, click.Group):
            inherit_help_names(command)


def parse_flags(args: tuple[str, ...]) -> tuple[Any, Flags]:
    """Parse a command line with dbt's parser, which also applies environment variables and project flags.

    Returns:
        click's context and dbt's flags.

    Raises:
        click.UsageError and DbtUsageException: dbt refuses the arguments.
    """
    click_context = args_to_context(list(args))
    flags = Flags(click_context)
    click_context.obj = {"flags": flags}
    return click_context, flags


def preflight(click_context: Any, flags: Flags) -> None:
    """Fire the events that dbt fires before it reads the project (dbt.cli.requires.preflight). Once per run."""
    fire_event(MainReportVersion(version=str(installed_version), log_version=LOG_VERSION))
    fire_event(MainReportArgs(args=cast_dict_to_dict_of_strings(get_flag_dict())))
    if hasattr(requires, "check_deprecated_version"):  # dbt-core >= 1.11
        requires.check_deprecated_version()
    flags.fire_deprecations(click_context)
    if hasattr(requires, "validate_engine_env_vars"):  # dbt-core >= 1.11
        requires.validate_engine_env_vars()


def postflight(command: str, flags: Any, started_at: float, *, success: bool) -> None:
    """Fire the events that dbt fires at the end of a command (dbt.cli.requires.postflight). Once per run.

    Args:
        command: ``build``, ``run``, …
        flags: dbt's flags.
        started_at: start of the command, seconds since the epoch.
    """
    show_deprecations_summary()
    elapsed = time.time() - started_at
    usage = resource.getrusage(resource.RUSAGE_SELF)
    fire_event(
        ResourceReport(
            command_name=command, command_success=success, command_wall_clock_time=elapsed,
            process_user_time=usage.ru_utime, process_kernel_time=usage.ru_stime,
            process_mem_max_rss=getattr(requires, "try_get_max_rss_kb", lambda: None)() or usage.ru_maxrss,
            process_in_blocks=usage.ru_inblock, process_out_blocks=usage.ru_oublock,
        ),
        EventLevel.INFO if getattr(flags, "SHOW_RESOURCE_REPORT", False) else None,
    )  # fmt: skip
    fire_event(
        CommandCompleted(
            command=f"dbt {command}", success=success, completed_at=get_json_string_utcnow(), elapsed=elapsed
        )
    )
    fire_event(FlushEvents())  # dbt.tracking.track_run fires it even where usage is not tracked


def discard_reported_deprecations(flags: Flags) -> None:
    """Discard deprecations that `preflight` reported when the run was planned
    (dbt.cli.flags.Flags.fire_deprecations)."""
    object.__delattr__(flags, "deprecated_env_var_warnings")
    dbt.deprecations.buffered_deprecations.clear()


def use_flags(flags: Flags) -> None:
    """Make `flags` the flags of this process, with the module state that dbt derives from them."""
    set_flags(flags)
    flags.set_common_global_flags()
    _limit_sqlparse(getattr(flags, "SQLPARSE", None))  # dbt-core >= 1.11
    manager = get_event_manager()
    if hasattr(manager, "require_warn_or_error_handling"):
        manager.require_warn_or_error_handling = getattr(
            flags, "require_all_warnings_handled_by_warn_error", False
        )
    if hasattr(manager, "allow_deferral"):  # as dbt.cli.requires.preflight, dbt-core >= 1.12
        manager.allow_deferral = bool(getattr(flags, "enable_grouped_warn_error_parser_logs", False))
    context: Any = get_invocation_context()
    context.enable_snowflake_projects_otel = getattr(flags, "SNOWFLAKE_PROJECTS_OTEL", False)
