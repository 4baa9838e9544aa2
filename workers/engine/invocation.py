"""Standing in for the caller: for the time of a step, this process is the dbt that they started.

dbt keeps much of an invocation in the process: environment, working directory, argv, flags,
invocation id, event manager, adapters. One worker process executes one step at a time, so a step
may borrow all of it, and puts it back.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import dbt.deprecations
import dbt.tracking
import dbt_common.invocation
import msgspec
from dbt.cli import requires
from dbt.cli.flags import Flags, args_to_context
from dbt.events.types import MainReportArgs, MainReportVersion
from dbt.flags import get_flag_dict, set_flags
from dbt.selected_resources import set_selected_resources
from dbt.task import group_lookup
from dbt.version import installed as installed_version
from dbt_common.clients.system import get_env
from dbt_common.context import get_invocation_context, set_invocation_context
from dbt_common.events.event_manager_client import cleanup_event_logger, get_event_manager
from dbt_common.events.functions import LOG_VERSION, fire_event, reset_metadata_vars
from dbt_common.utils import cast_dict_to_dict_of_strings

from workers.engine.env_file import load_env_file
from workers.engine.events import LineSink, StdoutLines, use_quiet_manager
from workers.engine.spec import RunSpec

MAIN_THREAD, NODE_THREAD = "MainThread", "Thread-1 (worker)"
"""What dbt's first thread is called, and the first of its pool, in results and events."""

_OUR_ENVIRONMENT = ("DBT_RELAY_",)


def worker_environment(base: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """A remote caller's contribution on top of this worker's own environment."""
    return {**base, **extra}


def dbt_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without dbt-relay's own settings, which hold the broker's password."""
    return {name: value for name, value in env.items() if not name.startswith(_OUR_ENVIRONMENT)}


@contextlib.contextmanager
def standing_in(spec: RunSpec, sink: LineSink) -> Iterator[RunSpec]:
    """Borrow the process for a step of `spec`'s run. Gives `spec` with the environment that dbt sees.

    Raises:
        OSError: the caller's working directory cannot be entered here, or its ``.env`` cannot be read.
    """
    saved_env, saved_cwd, saved_argv = dict(os.environ), os.getcwd(), sys.argv
    thread = threading.current_thread()
    saved_name = thread.name
    os.chdir(spec.cwd)
    _set_environment(spec.env)
    sys.argv = ["dbt", *spec.args]  # dbt's invocation_command
    thread.name = MAIN_THREAD if sink.step.startswith("@") else NODE_THREAD
    stdout = StdoutLines(sink)
    set_flags(Namespace(USE_COLORS=True))  # as dbt.flags begins
    set_selected_resources(set())
    group_lookup._node_id_to_group_name_map.clear()
    group_lookup._group_name_to_group_map.clear()
    reset_metadata_vars()  # dbt reads DBT_ENV_CUSTOM_ENV_… once a process
    try:
        if load_env_file():
            spec = msgspec.structs.replace(spec, env=dict(os.environ))
        set_invocation_context({})
        env = get_env()
        if hasattr(requires, "_cross_propagate_engine_env_vars"):  # dbt-core >= 1.11
            requires._cross_propagate_engine_env_vars(env)
        get_invocation_context()._env = env
        dbt_common.invocation._INVOCATION_ID = spec.invocation_id
        dbt_common.invocation._INVOCATION_STARTED_AT = datetime.fromtimestamp(
            spec.started_at, timezone.utc
        ).replace(tzinfo=None)
        dbt.tracking.initialize_from_flags(False, None)
        user: Any = dbt.tracking.active_user
        user.run_started_at = datetime.fromtimestamp(spec.started_at, timezone.utc)
        use_quiet_manager()
        cleanup_event_logger()
        dbt.deprecations.reset_deprecations()
        dbt.deprecations.buffered_deprecations.clear()
        _forget_of_others()
        get_event_manager().callbacks.append(sink)
        with contextlib.redirect_stdout(stdout):
            yield spec
    finally:
        stdout.close()
        cleanup_event_logger()
        thread.name = saved_name
        sys.argv = saved_argv
        _set_environment(saved_env)
        os.chdir(saved_cwd)


def _forget_of_others() -> None:
    """Drop what dbt-core 1.12 and later keeps of an earlier invocation in this process."""
    deferred = getattr(get_event_manager(), "_deferred_event_groups", None)  # of a parse that failed
    if deferred is not None:
        deferred.clear()
    hints = sys.modules.get("dbt.hints")
    if hints is not None:  # when each hint was last shown: other processes show hints, too
        hints._read_hint_ts.cache_clear()


def _set_environment(env: Mapping[str, str]) -> None:
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def parse_flags(args: tuple[str, ...]) -> tuple[Any, Flags]:
    """dbt's own reading of the arguments (with the environment and project flags that it honours).

    Raises:
        click.UsageError and DbtUsageException: dbt refuses the arguments.
    """
    click_context = args_to_context(list(args))
    flags = Flags(click_context)
    click_context.obj = {"flags": flags}
    return click_context, flags


def preflight(click_context: Any, flags: Flags) -> None:
    """What dbt says before it reads the project (dbt.cli.requires.preflight). Once a run."""
    fire_event(MainReportVersion(version=str(installed_version), log_version=LOG_VERSION))
    fire_event(MainReportArgs(args=cast_dict_to_dict_of_strings(get_flag_dict())))
    if hasattr(requires, "check_deprecated_version"):  # dbt-core >= 1.11
        requires.check_deprecated_version()
    flags.fire_deprecations(click_context)
    if hasattr(requires, "validate_engine_env_vars"):  # dbt-core >= 1.11
        requires.validate_engine_env_vars()


def said_already(flags: Flags) -> None:
    """Forget what `preflight` said when the run was planned (dbt.cli.flags.Flags.fire_deprecations)."""
    object.__delattr__(flags, "deprecated_env_var_warnings")
    dbt.deprecations.buffered_deprecations.clear()


def use_flags(flags: Flags) -> None:
    """Make flags the process's."""
    set_flags(flags)
    flags.set_common_global_flags()
    manager = get_event_manager()
    if hasattr(manager, "require_warn_or_error_handling"):
        manager.require_warn_or_error_handling = getattr(
            flags, "require_all_warnings_handled_by_warn_error", False
        )
    if hasattr(manager, "allow_deferral"):  # as dbt.cli.requires.preflight, dbt-core >= 1.12
        manager.allow_deferral = bool(getattr(flags, "enable_grouped_warn_error_parser_logs", False))
    context: Any = get_invocation_context()
    context.enable_snowflake_projects_otel = getattr(flags, "SNOWFLAKE_PROJECTS_OTEL", False)
