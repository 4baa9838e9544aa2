"""Messages of a parse, which are logged again where a kept parse is used for other vars.

dbt parses the whole project when ``--vars`` differ, and logs all of it again: its warnings and deprecations, and the
texts of ``log()``, ``print()`` and ``exceptions.warn()``. Each message is kept in a slot, in dbt's order. A slot
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

from workers.engine.project.parse_units import NO_UNIT, PROJECT, Unit

_MODULES = ("dbt.events.types", "dbt.adapters.events.types", "dbt_common.events.types")

CHECKS = (
    "check_for_model_deprecations", "check_for_spaces_in_resource_names",
    "check_for_microbatch_deprecations", "check_forcing_batch_concurrency",
    "check_microbatch_model_has_a_filtered_input", "check_function_default_arguments_ordering",
)  # fmt: skip
"""dbt's checks at the end of each parse, partial ones included (dbt.parser.manifest.ManifestLoader.load)."""

_OF_TEMPLATES = frozenset({"JinjaLogInfo", "JinjaLogDebug", "PrintEvent"})
"""Events of ``log()`` and ``print()``."""

_DEPRECATION = "deprecation"


def is_kept(name: str, level: str) -> bool:
    """Whether an event of this name and level is logged again."""
    return level in {"warn", "error"} or name in _OF_TEMPLATES


class DifferentSlotsError(ValueError):
    """The place of a message among the messages of a full parse is not known."""


class Message(msgspec.Struct, frozen=True):
    """An event: its name, level and fields. Or a deprecation (level ``deprecation``): its name and arguments."""

    name: str
    level: str
    fields: dict[str, Any]

    def emit(self) -> None:
        """Log it, as dbt logged it."""
        if self.level == _DEPRECATION:
            dbt.deprecations.warn(self.name, **self.fields)
        else:
            fire_event(_event(self), level=EventLevel(self.level))


class Slot(msgspec.Struct):
    """A stretch of the parse of a unit, and the messages in it.

    Attributes:
        late: see `parse_reads.UnitReads`.
        part: which part of the parse it is, where a unit need not have that part each time.
    """

    unit: Unit
    late: bool
    messages: list[Message] = msgspec.field(default_factory=list, name="said")
    part: str = ""


class Warnings(msgspec.Struct):
    """The messages of a parse, without those of its `CHECKS`.

    Attributes:
        slots: in dbt's order, those of units that log or may log something.
        complete: whether all messages can be logged again.
        of_this_time: whether a unit that logs something reads the time, the invocation or similar.
    """

    slots: list[Slot] = msgspec.field(default_factory=list)
    complete: bool = True
    of_this_time: bool = False

    def emit(self) -> None:
        """Log all messages."""
        for slot in self.slots:
            for message in slot.messages:
                message.emit()


class Listener:
    """Collects the messages of a parse: a callback of dbt's event manager."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.complete = True
        self._at: tuple[Unit, bool] | None = (PROJECT, False)
        self._paused = False
        self._thread = threading.get_ident()

    def turn_to(self, unit: Unit, late: bool, part: str = "") -> None:
        """Open a slot: the parse of a unit begins."""
        self.slots.append(Slot(unit, late, part=part))
        self._at = None

    def return_to(self, unit: Unit, late: bool) -> None:
        """The parse of a unit continues. The unit gets another slot if something is logged."""
        self._at = unit, late

    def handle_debug(self, event: BaseEvent) -> bool:
        """Whether a debug event can be dropped before it is rendered. Only those of templates are kept."""
        return type(event).__name__ not in _OF_TEMPLATES

    def __call__(self, msg: EventMsg) -> None:
        info: Any = msg.info
        if self._paused or threading.get_ident() != self._thread or not is_kept(info.name, info.level):
            return
        data: Any = msg.data
        message = Message(info.name, info.level, MessageToDict(data, preserving_proto_field_name=True))
        try:
            self.complete &= _event(message).message() == info.msg
        except Exception:  # noqa: BLE001 - whatever an event raises that cannot be made from its fields
            self.complete = False
        self._keep(message)

    def warnings(self, read: Iterable[Unit], of_this_time: Iterable[Unit]) -> Warnings:
        """The messages so far.

        Args:
            read: units that read anything: what they log may differ with other vars.
            of_this_time: units that read the time, the invocation or similar.
        """
        logging = {slot.unit.entry for slot in self.slots if slot.messages}
        kept = (logging | {unit.entry for unit in read}) - {PROJECT, NO_UNIT}
        return Warnings(
            [slot for slot in self.slots if slot.messages or slot.unit.entry in kept],
            self.complete,
            not logging.isdisjoint(unit.entry for unit in of_this_time),
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collect the messages that are logged within."""
        manager, show = get_event_manager(), dbt.deprecations.DBTDeprecation.show
        buffered = len(dbt.deprecations.buffered_deprecations)
        manager.callbacks.append(self)

        def shown(deprecation: Any, *args: Any, **fields: Any) -> None:
            if not self._paused and threading.get_ident() == self._thread:
                self.complete &= not args and all(_is_plain(value) for value in fields.values())
                self._keep(Message(deprecation.name, _DEPRECATION, fields))
            with self.paused():
                show(deprecation, *args, **fields)

        dbt.deprecations.DBTDeprecation.show = shown  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            dbt.deprecations.DBTDeprecation.show = show  # type: ignore[method-assign]
            manager.callbacks.remove(self)
            # dbt logs these later, after its checks
            self.complete &= not getattr(manager, "allow_deferral", False)
            self.complete &= len(dbt.deprecations.buffered_deprecations) == buffered

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore the messages that are logged within."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _keep(self, message: Message) -> None:
        if self._at is not None:
            self.turn_to(*self._at)
        self.slots[-1].messages.append(message)


def rendered_again(slots: list[Slot], again: Iterable[Slot]) -> list[Slot]:
    """`slots`, with the new messages of units that were rendered again. Their late slots stay.

    Raises:
        DifferentSlotsError: see there.
    """
    return _replaced(
        slots, [slot for slot in again if slot.unit != PROJECT], lambda slot: slot.unit,
        lambda old, new: old if old.late else new,
    )  # fmt: skip


def parsed_again(slots: list[Slot], again: Iterable[Slot]) -> list[Slot]:
    """`slots`, with the new messages of files and entries that were parsed again.

    Raises:
        DifferentSlotsError: see there.
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
        if not any(slot.messages for slot in new) and not any(slots[place].messages for place in places):
            continue
        if unit == PROJECT:
            raise DifferentSlotsError
        for place, slot in _matched(slots, places, new):
            result[place] = chosen(slots[place], slot)
    return result


def _matched(slots: list[Slot], places: list[int], new: list[Slot]) -> Iterator[tuple[int, Slot]]:
    """The places of a unit's slots, each with the slot that replaces the one there."""
    unnamed = [slot for slot in new if not slot.part]
    unnamed_places = [place for place in places if not slots[place].part]
    if [slots[place].late for place in unnamed_places] != [slot.late for slot in unnamed]:
        raise DifferentSlotsError(str(slots[places[0]].unit) if places else "")
    yield from zip(unnamed_places, unnamed, strict=True)
    parts = {slot.part: slot for slot in new if slot.part}
    for place in places:
        old = slots[place]
        if old.part:
            silent = Slot(old.unit, old.late, part=old.part)
            yield place, parts.pop(old.part, silent)
    if any(slot.messages for slot in parts.values()):
        raise DifferentSlotsError


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _event(message: Message) -> BaseEvent:
    for module in _MODULES:
        kind = getattr(importlib.import_module(module), message.name, None)
        if kind is not None:
            event: BaseEvent = kind(**message.fields)
            return event
    raise LookupError(message.name)
