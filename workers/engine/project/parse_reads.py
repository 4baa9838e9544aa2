"""What a parse looked at: which vars, and what else of an invocation, each file and each entry of a YAML file read.

dbt's parser asks for a var in one way only, by the mapping of ``--vars``, so a mapping that notes who looks into
it (`watched`) misses nobody: templates, macros that they call, YAML, hooks. Everything else that differs from
one invocation to the next and that a template can name is noted where Jinja resolves names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from workers.engine.project.parse_messages import Listener, Warnings
from workers.engine.project.parse_units import NOBODY, PROJECT, Unit
from workers.engine.project.recorded_vars import EVERYTHING

VOLATILE = frozenset(
    {"builtins", "context", "dbt_metadata_envs", "flags", "graph", "invocation_args_dict", "invocation_id", "lipsum",
     "modules", "run_started_at", "selected_resources", "thread_id"}
)  # fmt: skip
"""Names by which a template gets at more than its project, profile, vars and environment."""

OF_THE_NODE = frozenset({"alias", "database", "model", "name", "schema", "this"})
"""Names by which a template gets at its own node, which is not the same before and after it was parsed."""

_FOUND = ("refs", "sources", "metrics", "functions", "depends_on")
"""What rendering a node's code leaves at the node."""


class ChangedFileError(Exception):
    """A file is no longer what was parsed."""


class Seen(msgspec.Struct):
    """What a unit looked at.

    Attributes:
        vars, names: while its code was rendered; `late` likewise once its config was known (names of relations, hooks).
        outputs: digests of what rendering gave, one a node, where it looked at anything.
    """

    unit: Unit
    vars: set[str] = msgspec.field(default_factory=set)
    names: set[str] = msgspec.field(default_factory=set)
    late: set[str] = msgspec.field(default_factory=set)
    late_names: set[str] = msgspec.field(default_factory=set)
    outputs: list[str] = msgspec.field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether it looked at anything that may differ the next time."""
        return bool(self.vars or self.late or (self.names | self.late_names) & VOLATILE)


class Recorder:
    """Notes who reads what. One parse at a time; dbt parses in one thread.

    Attributes:
        whole: whether dbt parsed all of the project (and not what changed since its partial parse file).
        entered: the units that were parsed.
        warned: what dbt and templates said meanwhile.
        places: where each node, source, … was met first; where it was enabled, if it ever was.
        entries: the file or entry in which each node was rendered, by unique id.
    """

    def __init__(self) -> None:
        self.seen: dict[Unit, Seen] = {}
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

    def units(self) -> list[Seen]:
        """Whoever looked at anything."""
        return [seen for seen in self.seen.values() if seen.anything and seen.unit != NOBODY]

    def warnings(self) -> Warnings:
        """What was said."""
        volatile = [seen.unit for seen in self.seen.values() if (seen.names | seen.late_names) & VOLATILE]
        return self.warned.warnings((seen.unit for seen in self.units()), volatile)

    def met(self, unique_id: str, *, enabled: bool) -> None:
        """A node, source, … is added to the manifest, or to what is disabled of it."""
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
        """A var was read, or asked for."""
        seen = self._current()
        (seen.late if self._late else seen.vars).add(name)

    def level(self, name: str) -> None:
        """A level of a project's config was looked at. Rendering the code again does not show what it changes."""
        self._current().late.add(name)

    def name(self, name: str) -> None:
        """A template named something of the invocation or of its node."""
        seen = self._current()
        (seen.late_names if self._late else seen.names).add(name)

    def called(self, what: Any) -> None:
        """A template called ``config()``."""
        self._calls.append(repr(what))

    def rendered(self, node: Any) -> None:
        """The code of a node of the unit is rendered, and the rest of its parse is made of what that gave."""
        self.entries.setdefault(node.unique_id, self._unit.entry)
        seen = self.seen.get(self._unit)
        rendering = self._unit.node or not self._unit.key
        if seen is not None and rendering and self._unit != PROJECT and (seen.vars or seen.names & VOLATILE):
            found = [getattr(node, name, None) for name in _FOUND]
            seen.outputs.append(_hash(repr((node.unique_id, found, self._calls))))
        self._calls.clear()

    @contextlib.contextmanager
    def within(self, unit: Unit, *, late: bool = False, part: str = "") -> Iterator[None]:
        """What is read within is `unit`'s. `part`: see `parse_messages.Slot`."""
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
        """What is read within is the current unit's, after it was rendered."""
        with self.within(self._unit, late=True):
            yield

    @contextlib.contextmanager
    def within_test(self, unique_id: str) -> Iterator[None]:
        """What is read within is a generic test's, of the entry that the recorder is at."""
        entry = self._unit
        unit = entry if entry == PROJECT else Unit(entry.file, entry.key, entry.name, unique_id)
        with self.within(unit):  # and without the config() that its builder called
            yield

    def turn_to(self, unit: Unit) -> None:
        """What is read from here on is `unit`'s, to the end of what it is `within`."""
        self.entered.add(unit)
        self._unit = unit
        self.warned.turn_to(unit, self._late)

    def _current(self) -> Seen:
        seen = self.seen.get(self._unit)
        if seen is None:
            seen = self.seen[self._unit] = Seen(self._unit)
        return seen


def touched(read: Iterable[str], changed: set[str]) -> bool:
    """Whether any of the names that were read is among the changed ones."""
    return any(name == EVERYTHING or name in changed for name in read)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
