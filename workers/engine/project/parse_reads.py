"""What each part of a project reads while dbt parses it: vars, and names that differ from one invocation to the next.

dbt's parser looks up vars in one place only, the mapping of ``--vars``. A mapping that records each lookup
(`recorded_vars`) therefore sees all of them: in templates, macros, YAML and hooks. Other values that differ from one
invocation to the next are recorded where Jinja resolves names (`parse_watching`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from workers.engine.project.parse_messages import Listener, Warnings
from workers.engine.project.parse_units import NO_UNIT, PROJECT, Unit
from workers.engine.project.recorded_vars import EVERYTHING

VOLATILE = frozenset(
    {"builtins", "context", "dbt_metadata_envs", "flags", "graph", "invocation_args_dict", "invocation_id", "lipsum",
     "modules", "run_started_at", "selected_resources", "thread_id"}
)  # fmt: skip
"""Names by which a template can read more than its project, profile, vars and environment."""

OF_THE_NODE = frozenset({"alias", "database", "model", "name", "schema", "this"})
"""Names by which a template can read its own node, which differs before and after its parse."""

_FOUND = ("refs", "sources", "metrics", "functions", "depends_on")
"""Attributes of a node that rendering its code fills."""

_OWN_RELATION = ("database", "schema", "identifier", "quoting_dict")
"""Attributes of a node from which ``ref()`` and ``source()`` make the relation that they return during a parse."""


class ChangedFileError(Exception):
    """A file differs from the one that was parsed."""


class UnitReads(msgspec.Struct):
    """What a unit read.

    Attributes:
        vars: vars that it read while its code was rendered.
        names: names as in `VOLATILE` and `OF_THE_NODE` that it read meanwhile.
        late: vars that it read after that (names of relations, hooks), and levels of a project's config.
        late_names: names that it read after that.
        outputs: digests of what rendering returned, one for each node, if the unit read anything.
    """

    unit: Unit
    vars: set[str] = msgspec.field(default_factory=set)
    names: set[str] = msgspec.field(default_factory=set)
    late: set[str] = msgspec.field(default_factory=set)
    late_names: set[str] = msgspec.field(default_factory=set)
    outputs: list[str] = msgspec.field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether it read anything that may differ in the next invocation."""
        return bool(self.vars or self.late or (self.names | self.late_names) & VOLATILE)


class Recorder:
    """Records what each unit reads during one parse. dbt parses in one thread.

    Attributes:
        whole: whether dbt parsed the whole project (not only what changed since its partial parse file).
        entered: the units that were parsed.
        warned: collects the messages of the parse.
        places: the order in which dbt first added nodes, sources, …: enabled, if they ever were.
        entries: the file or entry in which each node was rendered, by unique id.
    """

    def __init__(self) -> None:
        self.seen: dict[Unit, UnitReads] = {}
        self.entered: set[Unit] = set()
        self.whole = False
        self.warned = Listener()
        self.places: dict[str, int] = {}
        self.entries: dict[str, Unit] = {}
        self._enabled: set[str] = set()
        self._counted = itertools.count()
        self._unit = PROJECT
        self._late = False
        self._calls: list[str] = []

    def units(self) -> list[UnitReads]:
        """The units that read anything."""
        return [seen for seen in self.seen.values() if seen.anything and seen.unit != NO_UNIT]

    def warnings(self) -> Warnings:
        """The messages so far."""
        volatile = [seen.unit for seen in self.seen.values() if (seen.names | seen.late_names) & VOLATILE]
        return self.warned.warnings((seen.unit for seen in self.units()), volatile)

    def met(self, unique_id: str, *, enabled: bool) -> None:
        """dbt adds a node, source, … to the manifest, or to its disabled members."""
        if unique_id in self._enabled or (not enabled and unique_id in self.places):
            return
        self.places[unique_id] = next(self._counted)
        if enabled:
            self._enabled.add(unique_id)

    @property
    def order(self) -> list[str]:
        """Unique ids in the order of their places."""
        return sorted(self.places, key=self.places.__getitem__)

    def var(self, name: str) -> None:
        """A var was read, or looked up."""
        seen = self._current()
        (seen.late if self._late else seen.vars).add(name)

    def level(self, name: str) -> None:
        """A level of a project's config was read. Rendering the code again would not show what it changes."""
        self._current().late.add(name)

    def name(self, name: str) -> None:
        """A template read a name of `VOLATILE` or `OF_THE_NODE`."""
        seen = self._current()
        (seen.late_names if self._late else seen.names).add(name)

    def called(self, what: Any) -> None:
        """A template called ``config()``."""
        self._calls.append(repr(what))

    def rendered(self, node: Any) -> None:
        """The code of a node was rendered. The rest of its parse depends on what that returned."""
        self.entries.setdefault(node.unique_id, self._unit.entry)
        seen = self.seen.get(self._unit)
        rendering = self._unit.node or not self._unit.key
        if seen is not None and rendering and self._unit != PROJECT and (seen.vars or seen.names & VOLATILE):
            found = [getattr(node, name, None) for name in (*_FOUND, *_OWN_RELATION)]
            found.append(node.config.get("catalog"))
            seen.outputs.append(_hash(repr((node.unique_id, found, self._calls))))
        self._calls.clear()

    @contextlib.contextmanager
    def within(self, unit: Unit, *, late: bool = False, part: str = "") -> Iterator[None]:
        """Record what is read within for `unit`. `part`: see `parse_messages.Slot`."""
        before = self._unit, self._late
        self.entered.add(unit)
        if not late:
            self._calls.clear()
        self._unit, self._late = unit, late
        self.warned.turn_to(unit, late, part)
        try:
            yield
        finally:
            self._unit, self._late = before
            self.warned.return_to(*before)

    @contextlib.contextmanager
    def late(self) -> Iterator[None]:
        """Record what is read within as late for the current unit: after it was rendered."""
        with self.within(self._unit, late=True):
            yield

    @contextlib.contextmanager
    def within_test(self, unique_id: str) -> Iterator[None]:
        """Record what is read within for a generic test of the current entry."""
        entry = self._unit
        unit = entry if entry == PROJECT else Unit(entry.file, entry.key, entry.name, unique_id)
        with self.within(unit):  # and without the config() that its builder called
            yield

    def turn_to(self, unit: Unit) -> None:
        """Record what is read from now on for `unit`, until the enclosing `within` ends."""
        self.entered.add(unit)
        self._unit = unit
        self.warned.turn_to(unit, self._late)

    def _current(self) -> UnitReads:
        seen = self.seen.get(self._unit)
        if seen is None:
            seen = self.seen[self._unit] = UnitReads(self._unit)
        return seen


def any_changed(read: Iterable[str], changed: set[str]) -> bool:
    """Whether any of the names that were read is a changed one."""
    return any(name == EVERYTHING or name in changed for name in read)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
