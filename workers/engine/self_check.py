"""What the engine needs of dbt's internals, checked when a worker starts (`startup.prepare`).

`NAMES` lists only what the engine reads while it executes: importing the engine checks the names that it imports.
"""

from __future__ import annotations

import importlib
import itertools
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any, Final

from workers.engine.patches.catalog import AT_START, NEEDED
from workers.engine.patches.registry import exists

NAMES: Final = (
    "dbt.adapters.base:BaseAdapter.cleanup_connections",
    "dbt.adapters.base:BaseAdapter.set_macro_resolver",
    "dbt.adapters.cache:RelationsCache._add_link",
    "dbt.adapters.cache:RelationsCache.drop_schema",
    "dbt.adapters.cache:RelationsCache.update_schemas",
    "dbt.cli.requires:profile",
    "dbt.cli.requires:project",
    "dbt.cli.requires:runtime_config",
    "dbt.cli.requires:setup_manifest",
    "dbt.contracts.graph.manifest:Manifest.build_flat_graph",
    "dbt.contracts.graph.manifest:Manifest.fill_tracking_metadata",
    "dbt.contracts.graph.manifest:Manifest.from_msgpack",
    "dbt.contracts.graph.manifest:Manifest.get_macros_by_package",
    "dbt.deprecations:buffered_deprecations",
    "dbt.task.group_lookup:_group_name_to_group_map",
    "dbt.task.group_lookup:_node_id_to_group_name_map",
    "dbt.task.run:RunTask._runtime_initialize",
    "dbt.task.run:RunTask._pool_thread_initializer",
    "dbt.task.run:RunTask.MARK_DEPENDENT_ERRORS_STATUSES",
    "dbt.task.run:RunTask.after_run",
    "dbt.task.run:RunTask.before_run",
    "dbt.task.run:RunTask.call_runner",
    "dbt.task.run:RunTask.defer_to_manifest",
    "dbt.task.run:RunTask.get_result",
    "dbt.task.run:RunTask.get_runner_type",
    "dbt.task.run:RunTask.interpret_results",
    "dbt.task.run:RunTask.populate_adapter_cache",
    "dbt.task.run:RunTask.print_results_line",
    "dbt.task.run:RunTask.result_path",
    "dbt.task.run:RunTask.task_end_messages",
    "dbt.tracking:initialize_from_flags",
    "dbt_common.invocation:_INVOCATION_ID",
    "dbt_common.invocation:_INVOCATION_STARTED_AT",
)
"""Functions and attributes of dbt that a step uses while it executes."""


def complaint() -> str | None:
    """Why the engine cannot drive the installed dbt, as a text for the person who starts the worker; None if it can."""
    try:
        importlib.import_module("workers.engine.engine")
    except (ImportError, AttributeError) as error:
        return refusal(str(error))
    needed = itertools.chain.from_iterable(each.targets for each in NEEDED if each.when == AT_START)
    missing = next((name for name in (*NAMES, *needed) if not exists(name)), None)
    if missing is not None:
        return refusal(f"{missing.replace(':', '.')} does not exist")
    if not _opens_by_manager():
        return refusal(
            "connections are not opened by the connection manager's `open`, which has to fence them"
        )
    if not _templates_call_by_environment():
        return refusal(
            "templates do not call methods by their environment, which has to record what they change"
        )
    return None


def refusal(lacks: str) -> str:
    """The error text for the person who starts the worker, with what dbt lacks and what to do."""
    try:
        release = version("dbt-core")
    except PackageNotFoundError:
        release = "(release unknown)"
    return (
        f"dbt-relay: this worker cannot execute dbt-core {release}: {lacks}. "
        "Install a release of dbt-core that this release of dbt-relay supports (docs/dbt-releases.md), "
        "or a newer dbt-relay."
    )


def _opens_by_manager() -> bool:
    """Whether dbt opens connections with the attribute `open` of a connection manager (`fencing` replaces it)."""
    from dbt.adapters.base import BaseConnectionManager
    from dbt.mp_context import get_mp_context

    class Manager(BaseConnectionManager):
        """A connection manager that can name connections."""

        TYPE = "relay_check"

    Manager.__abstractmethods__ = frozenset()
    opened: list[Any] = []

    def record(connection: Any) -> Any:
        opened.append(connection)
        connection.handle = object()
        return connection

    try:
        manager: Any = Manager(SimpleNamespace(credentials=None), get_mp_context())  # type: ignore[abstract]
        manager.open = record
        _ = manager.set_connection_name("relay_check").handle
    except Exception:  # noqa: BLE001 - any failure means that dbt does it in another way
        return False
    return len(opened) == 1


def _templates_call_by_environment() -> bool:
    """Whether templates call methods by their environment and set attributes of namespaces as items
    (`template_state.calls` replaces both)."""
    from dbt_common.clients.jinja import MacroFuzzEnvironment
    from jinja2.utils import Namespace

    seen: list[str] = []

    class Environment(MacroFuzzEnvironment):
        def call(self, context: Any, called: Any, /, *args: Any, **more: Any) -> Any:
            seen.append(called.__name__)
            return super().call(context, called, *args, **more)

    class Recorded(Namespace):
        def __setitem__(self, name: str, value: Any) -> None:
            seen.append(name)

    try:
        template = Environment(extensions=["jinja2.ext.do"]).from_string(
            "{% do found.append(1) %}{% set space.attribute = 1 %}"
        )
        template.render({"found": [], "space": Recorded()})
    except Exception:  # noqa: BLE001 - any failure means that templates are executed in another way
        return False
    return seen == ["append", "attribute"]
