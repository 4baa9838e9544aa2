"""What templates change of objects that outlive their node: recorded, and repeated in other processes.

In dbt's one process, what a hook or a node writes into `graph`, into the value of a var or into its own config is
there for every later node and hook. A run has many processes here. So each change that a template makes to such an
object is recorded where Jinja calls the method that makes it (`template_calls`), is stored with the result of its
step, as changes of the relation cache are, and is repeated by each process that executes a later step.

The ledger's list is the truth. A step whose result was not stored (it is tried again, its lease was lost) has
changed nothing: its changes are undone before the process executes the run's next step. A node that failed for
good has stored its result, and its changes stay, as in dbt.

A warm process executes many runs over one parsed project, so changes of the parsed project's objects are undone
whenever no step of the run is executing, and done again when the next one begins.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from dbt.adapters.base import BaseAdapter

from workers.engine.template_state.changes import change_of, is_there, repeat
from workers.engine.template_state.values import CONTAINERS, Ref, contents, refill

TEMPLATES = "templates"
"""Marks a change of this kind among those of the relation cache."""

Macro = Callable[[str, str], Any]
"""A macro (unique id) as it is in the context of a node (unique id)."""


def walk(root: Any) -> Iterator[tuple[Any, Ref]]:
    """All dicts, lists and sets below an object of dbt's, with how to get there: keys, indexes, names of attributes."""
    waiting: list[tuple[Any, Ref]] = [(root, ())]
    seen: set[int] = set()
    while waiting:
        found, path = waiting.pop()
        if isinstance(found, dict):
            below: Iterable[tuple[Any, Any]] = dict.items(found)
        elif isinstance(found, (list, tuple)):
            below = enumerate(found)
        elif isinstance(found, set):
            below = ()
        elif type(found).__module__.startswith("dbt") and hasattr(found, "__dict__"):
            below = vars(found).items()
        else:
            continue
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, CONTAINERS):
            yield found, path
        waiting += [(each, (*path, key)) for key, each in below if type(each) not in _SCALARS]


_SCALARS = frozenset({str, int, float, bool, type(None)})


def containers(root: Any) -> dict[int, Any]:
    """What `walk` finds, by identity, and tuples and objects on the way: the shorter way to learn whether it finds one."""
    found: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind in _SCALARS or id(each) in found:
            continue
        if kind is dict:
            waiting += dict.values(each)
        elif kind is list or kind is tuple:
            waiting += each
        elif isinstance(each, dict):
            waiting += dict.values(each)
        elif kind.__module__.startswith("dbt") and hasattr(each, "__dict__"):
            waiting += vars(each).values()
        elif not isinstance(each, CONTAINERS):
            continue
        found[id(each)] = each
    return found


def at(root: Any, path: Ref) -> Any:
    """What `walk` found at a path."""
    for part in path:
        root = root[part] if isinstance(root, (dict, list, tuple)) else getattr(root, part)
    return root


class GraphIndex:
    """Which containers were in `graph` when the project was parsed. Made when it is first needed."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.graph = graph
        self._entries: dict[int, Ref] | None = None
        self._alive: list[Any] = []  # an identity is a container's for as long as it lives

    def entry_of(self, container: Any, as_parsed: AbstractContextManager[None]) -> Ref | None:
        """The section, and the unique id of the entry, that a container belongs to."""
        if self._entries is None:
            with as_parsed:
                self._entries = self._index()
        return self._entries.get(id(container))

    def _index(self) -> dict[int, Ref]:
        entries: dict[int, Ref] = {id(self.graph): ()}
        for section, named in self.graph.items():
            entries[id(named)] = (section,)
            for unique_id, entry in named.items():
                path = (section, unique_id)
                found = containers(entry)
                entries.update(dict.fromkeys(found, path))
                self._alive += found.values()
        return entries


class TemplateState:
    """A run's share of it in one process. `graph_used`: whether the step's templates named `graph`."""

    def __init__(
        self, adapter: BaseAdapter, graph: GraphIndex, roots: Callable[[], Mapping[str, Any]],
        own: Callable[[str], Any], macro: Macro,
    ) -> None:  # fmt: skip
        """
        Args:
            roots: objects beside `graph` that outlive a node, by names that are the same in each process.
            own: the run's own copy of a node.
        """
        self.adapter, self.macro = adapter, macro
        self.graph_used = False
        self.changed: set[str] = set()
        self.graph, self._roots, self._own = graph, roots, own
        self._origin, self._made = secrets.token_hex(4), 0
        self._refs: dict[int, tuple[Any, Ref]] = {}
        self._values: dict[Ref, Any] = {}
        self._beside: dict[int, Any] | None = None
        self._nodes: Callable[[], Iterable[str]] = tuple
        self._of_nodes: dict[int, Any] | None = None
        self._parsed: dict[int, tuple[Any, Any]] = {}
        self._aside: list[tuple[Any, Any]] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._fresh: list[Ref] = []
        self._changes: list[Any] = []
        self._stored = ""
        self._lock = threading.RLock()

    # -- around a step -----------------------------------------------------------------------------

    def begin(self, nodes: Callable[[], Iterable[str]], changes: Iterable[list[Any]] = ()) -> None:
        """A step begins.

        Args:
            nodes: returns the ids of those in whose contexts its templates are rendered.
            changes: what the ledger got since the last step of this process.
        """
        told = list(changes)
        if self._stored and told and told[0][2] == self._stored:
            del told[0]  # this process made them
        elif self._stored or self._changes:
            self._undo()
        self._stored, self._before, self._fresh, self._changes = "", {}, [], []
        for _, _, _, each in told:
            for change in each:
                self._repeat(change)
        self._before, self._fresh = {}, []
        self._nodes, self._of_nodes, self.graph_used = nodes, None, False

    def take_changes(self) -> tuple[str, ...]:
        """What the step changed, as one change for the ledger."""
        if not self._changes:
            return ()
        self._stored = secrets.token_hex(4)
        told = [self._origin, TEMPLATES, self._stored, self._changes]
        self._changes = []
        # names in dbt's configs are texts of its own kinds
        return (msgspec.json.encode(told, enc_hook=str).decode(),)

    def _undo(self) -> None:
        for container, before in self._before.values():
            refill(container, before)
        for ref in self._fresh:
            self._refs.pop(id(self._values.pop(ref)), None)

    def show(self) -> None:
        """Give the parsed project's objects what this run made of them."""
        for container, now in self._aside:
            refill(container, now)
        self._aside = []

    def hide(self) -> None:
        """Give the parsed project's objects back what they had when they were parsed."""
        if not self._aside:
            self._aside = [(container, contents(container)) for container, _ in self._parsed.values()]
        for container, parsed in self._parsed.values():
            refill(container, parsed)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Within, the parsed project is as it was parsed."""
        self.hide()
        try:
            yield
        finally:
            self.show()

    # -- names (see `template_values.Names`) -------------------------------------------------------

    def ref_of(self, container: Any) -> Ref | None:
        """The reference of an object that outlives its node, or None."""
        known = self._refs.get(id(container))
        if known is not None:
            return known[1]
        if not isinstance(container, CONTAINERS):
            return None
        with self._lock:
            ref = self._parsed_ref(container)
            return None if ref is None else self.name(container, ref)

    def knows(self, value: Any) -> bool:
        """Whether a value has a reference already."""
        return id(value) in self._refs

    def name(self, value: Any, ref: Ref | None = None) -> Ref:
        """Keep a value under a reference, a new one if it has none."""
        if ref is None:
            self._made += 1
            ref = ("made", self._origin, self._made)
        self._refs[id(value)] = (value, ref)
        self._values[ref] = value
        if ref[0] == "made" and isinstance(value, CONTAINERS):
            self._fresh.append(ref)
        return ref

    def named(self, ref: Ref) -> Any:
        """The object of a reference, or None."""
        found = self._values.get(ref)
        if found is None and ref[0] != "made":
            with self.hidden():
                root = self.graph.graph if ref[0] == "graph" else self._root(ref)
                found = at(root, ref[1:] if ref[0] == "graph" else ref[2:])
            self.name(found, ref)
        return found

    def _root(self, ref: Ref) -> Any:
        return self._own(ref[1]) if ref[0] == "node" else self._roots()[ref[1]]

    def _parsed_ref(self, container: Any) -> Ref | None:
        """The reference of an object of the parsed project, or None for any other."""
        if container is self.graph.graph:
            return ("graph",)
        if self.graph_used:
            entry = self.graph.entry_of(container, self.hidden())
            if entry is not None:
                with self.hidden():
                    found = walk(at(self.graph.graph, entry))
                    return next(("graph", *entry, *path) for each, path in found if each is container)
        if self._beside is None:
            self._beside = containers(list(self._roots().values()))
        if self._of_nodes is None:
            self._of_nodes = containers([self._own(unique_id) for unique_id in self._nodes()])
        if id(container) not in self._beside and id(container) not in self._of_nodes:
            return None
        with self.hidden():
            nodes = {each: self._own(each) for each in self._nodes()}
            return _found("beside", self._roots(), container) or _found("node", nodes, container)

    # -- recording ---------------------------------------------------------------------------------

    def record(self, container: Any, method: str, call: Callable[..., Any], args: Any, more: Any) -> Any:
        """Call a method that changes a container. If the container outlives its node, note what it changed."""
        ref = self.ref_of(container)
        if ref is None:
            return call(*args, **more)
        with self._lock:
            # an iterator can be read once; a list that extends itself is read before it grows
            doubled = method == "extend"
            args = [
                list(each) if hasattr(each, "__next__") or (doubled and each is container) else each
                for each in args
            ]
            was_there = is_there(container, method, args)
            self._touch(container, ref)
            answer = call(*args, **more)
            change = change_of(container, method, self, args, more, answer, was_there=was_there)
            if change is not None:
                self._changes.append([list(ref), *change])
            return answer

    def _touch(self, container: Any, ref: Ref) -> None:
        """Keep what a container holds, before it is changed."""
        if ref[0] != "made" and id(container) not in self._parsed:
            self._parsed[id(container)] = (container, contents(container))
        if ref[0] == "graph" and len(ref) > 2:
            self.changed.add(ref[2])
        if id(container) not in self._before:
            self._before[id(container)] = (container, contents(container))

    def _repeat(self, change: list[Any]) -> None:
        raw, method, *written = change
        ref = tuple(raw)
        container = self.named(ref)
        if container is None:
            raise RuntimeError(f"a template changed what is not there in this process: {raw}")
        self._touch(container, ref)
        # two nodes at once may have taken the same entry away
        with contextlib.suppress(LookupError, ValueError):
            repeat(container, method, self, *written)


def _found(kind: str, roots: Mapping[str, Any], container: Any) -> Ref | None:
    for name, root in roots.items():
        for found, path in walk(root):
            if found is container:
                return (kind, name, *path)
    return None
