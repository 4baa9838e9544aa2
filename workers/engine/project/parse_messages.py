"""What dbt and templates say while a project is parsed, so that a parse that is kept for other vars says it again.

dbt parses the whole project when ``--vars`` differ, and says all of it again: its warnings and deprecations, and what
templates say by ``log()``, ``print()`` and ``exceptions.warn()``. Each message is kept in a slot, in dbt's order. A slot
belongs to the unit that dbt was parsing. Where a unit is rendered or parsed again, its slots are replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import dbt.deprecations
import msgspec
from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
from dbt_common.events.event_manager_client import get_event_manager
from dbt_common.events.functions import fire_event
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from workers.engine.project.parse_units import NOBODY, PROJECT, Unit

_MODULES = ("dbt.events.types", "dbt.adapters.events.types", "dbt_common.events.types")

CHECKS = (
    "check_for_model_deprecations", "check_for_spaces_in_resource_names",
    "check_for_microbatch_deprecations", "check_forcing_batch_concurrency",
    "check_microbatch_model_has_a_filtered_input", "check_function_default_arguments_ordering",
)  # fmt: skip
"""What dbt checks at the end of a parse, of parts that it kept as well (dbt.parser.manifest.ManifestLoader.load)."""

_OF_TEMPLATES = frozenset({"JinjaLogInfo", "JinjaLogDebug", "PrintEvent"})
"""Events of ``log()`` and ``print()``."""

_DEPRECATION = "deprecation"


def is_kept(name: str, level: str) -> bool:
    """Whether an event of this name and level is said again."""
    return level in {"warn", "error"} or name in _OF_TEMPLATES


class DifferentSlotsError(ValueError):
    """Where a message belongs among the messages of a full parse is not known."""


class Said(msgspec.Struct, frozen=True):
    """A message: the name of its event, its level, and its fields. Or a deprecation that dbt met: its name and arguments."""

    name: str
    level: str
    fields: dict[str, Any]

    def again(self) -> None:
        """Say it, as dbt says it."""
        if self.level == _DEPRECATION:
            dbt.deprecations.warn(self.name, **self.fields)
        else:
            fire_event(_event(self), level=EventLevel(self.level))


class Slot(msgspec.Struct):
    """A stretch of the parse of a unit, and what was said in it. `late`: see `reads.Seen`."""

    unit: Unit
    late: bool
    said: list[Said] = msgspec.field(default_factory=list)


class Warnings(msgspec.Struct):
    """What is said in a parse, without its `CHECKS`.

    Attributes:
        slots: in their order, those of units that say or may say something.
        complete: whether all of it can be said again.
        of_this_time: whether a unit that says something looks at the time, the invocation or the like.
    """

    slots: list[Slot] = msgspec.field(default_factory=list)
    complete: bool = True
    of_this_time: bool = False

    def again(self) -> None:
        """Say it again."""
        for slot in self.slots:
            for said in slot.said:
                said.again()


class Listener:
    """Collects `Warnings` from dbt's events: a callback of its event manager."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.complete = True
        self._at: tuple[Unit, bool] | None = (PROJECT, False)
        self._paused = False
        self._thread = threading.get_ident()

    def turn_to(self, unit: Unit, late: bool) -> None:
        """The parse begins with a unit."""
        self.slots.append(Slot(unit, late))
        self._at = None

    def return_to(self, unit: Unit, late: bool) -> None:
        """The parse goes on with a unit. It gets another slot if something is said."""
        self._at = unit, late

    def handle_debug(self, event: BaseEvent) -> bool:
        """Of debug events, only those of templates are kept."""
        return type(event).__name__ not in _OF_TEMPLATES

    def __call__(self, msg: EventMsg) -> None:
        info: Any = msg.info
        if self._paused or threading.get_ident() != self._thread or not is_kept(info.name, info.level):
            return
        data: Any = msg.data
        said = Said(info.name, info.level, MessageToDict(data, preserving_proto_field_name=True))
        try:
            self.complete &= _event(said).message() == info.msg
        except Exception:  # noqa: BLE001 - an event that cannot be made again, for whatever reason
            self.complete = False
        self._keep(said)

    def warnings(self, read: Iterable[Unit], of_this_time: Iterable[Unit]) -> Warnings:
        """What was said. `read`: units that read something; `of_this_time`: see `Warnings`."""
        speaking = {slot.unit.entry for slot in self.slots if slot.said}
        kept = (speaking | {unit.entry for unit in read}) - {PROJECT, NOBODY}
        return Warnings(
            [slot for slot in self.slots if slot.said or slot.unit.entry in kept],
            self.complete,
            not speaking.isdisjoint(unit.entry for unit in of_this_time),
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collect what is said within."""
        manager, show = get_event_manager(), dbt.deprecations.DBTDeprecation.show
        buffered = len(dbt.deprecations.buffered_deprecations)
        manager.callbacks.append(self)

        def shown(deprecation: Any, *args: Any, **fields: Any) -> None:
            if not self._paused and threading.get_ident() == self._thread:
                self.complete &= not args and all(_is_plain(value) for value in fields.values())
                self._keep(Said(deprecation.name, _DEPRECATION, fields))
            with self.paused():
                show(deprecation, *args, **fields)

        dbt.deprecations.DBTDeprecation.show = shown  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            dbt.deprecations.DBTDeprecation.show = show  # type: ignore[method-assign]
            manager.callbacks.remove(self)
            # dbt says these later, after its checks
            self.complete &= not getattr(manager, "allow_deferral", False)
            self.complete &= len(dbt.deprecations.buffered_deprecations) == buffered

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is said within."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _keep(self, said: Said) -> None:
        if self._at is not None:
            self.turn_to(*self._at)
        self.slots[-1].said.append(said)


def rendered_again(slots: list[Slot], again: Iterable[Slot]) -> list[Slot]:
    """`slots` with what units said that were rendered again. What they said late stays.

    Raises:
        DifferentSlotsError
    """
    return _replaced(
        slots, [slot for slot in again if slot.unit != PROJECT], lambda slot: slot.unit,
        lambda old, new: old if old.late else new,
    )  # fmt: skip


def parsed_again(slots: list[Slot], again: Iterable[Slot]) -> list[Slot]:
    """`slots` with what files and entries said that were parsed again.

    Raises:
        DifferentSlotsError
    """
    return _replaced(slots, again, lambda slot: slot.unit.entry, lambda _, new: new)


def _replaced(
    slots: list[Slot], again: Iterable[Slot], of: Callable[[Slot], Unit], chosen: Callable[[Slot, Slot], Slot]
) -> list[Slot]:
    result, before, after = (
        list(slots),
        defaultdict[Unit, list[int]](list),
        defaultdict[Unit, list[Slot]](list),
    )
    for place, slot in enumerate(slots):
        before[of(slot)].append(place)
    for slot in again:
        after[of(slot)].append(slot)
    for unit, new in after.items():
        places = before[unit]
        if not any(slot.said for slot in new) and not any(slots[place].said for place in places):
            continue
        if unit == PROJECT or [slots[place].late for place in places] != [slot.late for slot in new]:
            raise DifferentSlotsError(str(unit))
        for place, slot in zip(places, new, strict=True):
            result[place] = chosen(slots[place], slot)
    return result


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _event(said: Said) -> BaseEvent:
    for module in _MODULES:
        kind = getattr(importlib.import_module(module), said.name, None)
        if kind is not None:
            event: BaseEvent = kind(**said.fields)
            return event
    raise LookupError(said.name)
