"""What the engine needs of dbt's internals, checked when a worker starts.

Names that a module of the engine imports at its top are not listed: importing the engine checks those.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Final

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
    "dbt.contracts.graph.nodes:write_file",
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
"""Names of dbt that a step asks for while it executes."""


def complaint() -> str | None:
    """What the installed dbt lacks, for the person who starts the worker; None where it lacks nothing, or is not there."""
    if find_spec("dbt") is None:
        return None
    try:
        importlib.import_module("workers.engine.engine")
    except (ImportError, AttributeError) as error:
        return _text(str(error))
    # imported here: the registry is part of the engine, which may not be importable
    from workers.engine.patches.registry import exists

    missing = next((name for name in NAMES if not exists(name)), None)
    if missing is not None:
        return _text(f"{missing.replace(':', '.')} does not exist")
    if not _opens_by_manager():
        return _text("connections are not opened by the connection manager's `open`, which has to fence them")
    return None


def _text(lacks: str) -> str:
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
    """Whether dbt asks a connection manager's own attribute `open` for a new connection (`fencing` replaces it)."""
    from dbt.adapters.base import BaseConnectionManager
    from dbt.mp_context import get_mp_context

    class Manager(BaseConnectionManager):
        """As much of a connection manager as naming a connection needs."""

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
    except Exception:  # noqa: BLE001 - whatever it is, dbt does it in another way
        return False
    return len(opened) == 1
