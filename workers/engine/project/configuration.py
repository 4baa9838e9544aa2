"""Reads dbt's configuration, and repeats the checks that dbt makes in every invocation."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from dbt.adapters.factory import FACTORY
from dbt.cli import requires
from dbt.cli.flags import Flags
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.manifest import ManifestLoader, _check_manifest
from dbt_common.events.base_types import BaseEvent, EventMsg
from dbt_common.events.event_manager_client import get_event_manager

from workers.engine.project.parse_messages import CHECKS
from workers.engine.warehouse.fencing import FencedAdapters


def read_configuration(click_context: Any) -> RuntimeConfig:
    """Read dbt's configuration of an invocation, by the steps of dbt's command line (dbt.cli.requires)."""
    FACTORY.adapters = FencedAdapters()
    for name in ("profile", "project", "catalogs", "runtime_config"):
        step = getattr(requires, name, None)  # catalogs: dbt-core < 1.12
        if step is not None:
            step(_nothing)(click_context)
    config: RuntimeConfig = click_context.obj["runtime_config"]
    if not hasattr(requires, "catalogs"):
        click_context.obj["catalogs"] = _catalogs(click_context.obj["flags"], config)
    return config


def _catalogs(flags: Flags, config: RuntimeConfig) -> list[Any]:
    """Read ``catalogs.yml`` as dbt.cli.requires.setup_manifest does (dbt-core >= 1.12)."""
    catalogs: Any = importlib.import_module("dbt.config.catalogs")
    if getattr(flags, "USE_CATALOGS_V2", False):
        return list(catalogs.load_catalogs_v2(flags.PROJECT_DIR, config.project_name, flags.VARS))
    return list(catalogs.load_catalogs(flags.PROJECT_DIR, config.project_name, flags.VARS))


def _nothing(*_: Any, **__: Any) -> None:
    """The command that dbt's decorators prepare for."""


def check_manifest(manifest: Manifest, config: RuntimeConfig) -> None:
    """Repeat what dbt checks and warns of in every invocation (dbt.parser.manifest.ManifestLoader.load)."""
    loader: ManifestLoader = ManifestLoader.__new__(ManifestLoader)
    loader.manifest, loader.root_project = manifest, config
    for check in CHECKS:
        if hasattr(loader, check):  # the later ones: dbt-core >= 1.11
            getattr(loader, check)()
    _check_manifest(manifest, config)
    # as dbt.cli.requires.setup_manifest, dbt-core >= 1.12
    if getattr(get_event_manager(), "allow_deferral", False):
        from dbt_common.events.base_types import EventGroupType

        get_event_manager().fire_deferred_events(EventGroupType.PARSE)


class _Warnings:
    """Counts events at warning level and above: a callback of dbt's event manager."""

    def __init__(self) -> None:
        self.count = 0

    def handle_debug(self, _: BaseEvent) -> bool:
        return True

    def __call__(self, msg: EventMsg) -> None:
        self.count += msg.info.level in {"warn", "error"}


def without_warnings(work: Callable[[], None]) -> bool:
    """Call `work`; whether dbt fired no warning and no error meanwhile."""
    warnings, manager = _Warnings(), get_event_manager()
    manager.callbacks.append(warnings)
    try:
        work()
    finally:
        manager.callbacks.remove(warnings)
    return not warnings.count
