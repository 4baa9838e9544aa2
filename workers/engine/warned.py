"""What dbt warned of while it parsed a whole project, so that a parse that is kept for other vars warns of it again.

dbt parses the project again when ``--vars`` differ, and says all of its warnings again.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from dbt.deprecations import active_deprecations
from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
from dbt_common.events.event_manager_client import get_event_manager
from dbt_common.events.functions import fire_event
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

_MODULES = ("dbt.events.types", "dbt.adapters.events.types", "dbt_common.events.types")

CHECKS = (
    "check_for_model_deprecations", "check_for_spaces_in_resource_names",
    "check_for_microbatch_deprecations", "check_forcing_batch_concurrency",
    "check_microbatch_model_has_a_filtered_input", "check_function_default_arguments_ordering",
)  # fmt: skip
"""What dbt checks at the end of a parse, of parts that it kept as well (dbt.parser.manifest.ManifestLoader.load)."""


class Warned(msgspec.Struct, frozen=True):
    """A warning: the name of its event, its level, and its fields."""

    name: str
    level: str
    fields: dict[str, Any]


class Warnings(msgspec.Struct):
    """What a parse warned of, without its `CHECKS`.

    Attributes:
        events: in their order.
        deprecations: how often dbt met each deprecation; it tells each of them once an invocation.
        complete: whether all of it can be said again.
    """

    events: list[Warned] = msgspec.field(default_factory=list)
    deprecations: dict[str, int] = msgspec.field(default_factory=dict)
    complete: bool = True

    @property
    def any(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.events or self.deprecations or not self.complete)

    def again(self) -> None:
        """Say it again, as dbt said it."""
        for each in self.events:
            fire_event(_event(each), level=EventLevel(each.level))
        active_deprecations.update(self.deprecations)


class Listener:
    """Collects `Warnings` from dbt's events: a callback of its event manager."""

    def __init__(self) -> None:
        self.warnings = Warnings()
        self._paused = False

    def deaf_to(self, _: BaseEvent) -> bool:
        """Debug events are no warnings."""
        return True

    def __call__(self, msg: EventMsg) -> None:
        info: Any = msg.info
        if self._paused or info.level not in {"warn", "error"}:
            return
        data: Any = msg.data
        warned = Warned(info.name, info.level, MessageToDict(data, preserving_proto_field_name=True))
        try:
            self.warnings.complete &= _event(warned).message() == info.msg
        except Exception:  # noqa: BLE001 - an event that cannot be made again, for whatever reason
            self.warnings.complete = False
        self.warnings.events.append(warned)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collect what is said within."""
        manager, before = get_event_manager(), Counter(active_deprecations)
        manager.callbacks.append(self)
        try:
            yield
        finally:
            manager.callbacks.remove(self)
            self._count(before, 1)
            if getattr(manager, "allow_deferral", False):  # dbt says it later, after its checks
                self.warnings.complete = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is said within."""
        before, self._paused = Counter(active_deprecations), True
        try:
            yield
        finally:
            self._paused = False
            self._count(before, -1)

    def _count(self, before: Counter[str], sign: int) -> None:
        total = Counter(self.warnings.deprecations)
        for name, times in (Counter(active_deprecations) - before).items():
            total[name] += sign * times
        self.warnings.deprecations = {name: times for name, times in total.items() if times}


def _event(warned: Warned) -> BaseEvent:
    for module in _MODULES:
        kind = getattr(importlib.import_module(module), warned.name, None)
        if kind is not None:
            event: BaseEvent = kind(**warned.fields)
            return event
    raise LookupError(warned.name)
