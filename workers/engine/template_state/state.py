"""Records what templates change of objects that outlive their node, and repeats it in other processes.

In dbt's single process, a hook or node may change `graph`, the value of a var, or its own config, and later nodes and
hooks see the change. Here several processes execute a run. So each change that a template makes to such an object is
recorded when Jinja calls the changing method (`calls`), stored in the ledger with the result of the step, and
repeated by each process that executes a later step.

Only changes in the ledger count. If the result of a step is not stored (the step is retried, or lost its lease), the
process undoes the step's changes before it executes the run's next step. A node that failed for good has stored its
result, so its changes stay, as in dbt.

Several runs share one parsed project in a warm process. So changes of the parsed project's objects are undone when a
step of the run ends, and made again when the next one begins.
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
"""Name of these changes among those of the relation cache."""

Macro = Callable[[str, str], Any]
"""Returns a macro (unique id) in the context of a node (unique id)."""


def walk(root: Any) -> Iterator[tuple[Any, Ref]]:
    """Yield all dicts, lists and sets below an object of dbt, each with its path of keys, indexes and attributes."""
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
    """Objects that `walk` yields or passes, by identity. Faster than `walk` for testing whether it finds one."""
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
    """The object at a path of `walk`."""
    for part in path:
        root = root[part] if isinstance(root, (Mapping, list, tuple)) else getattr(root, part)
    return root


class GraphIndex:
    """Index of the containers that were in `graph` when the project was parsed. Built on first use."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.graph = graph
        self._entries: dict[int, Ref] | None = None
        self._alive: list[Any] = []  # keeps the containers alive, so that their identities stay valid

    def entry_of(self, container: Any, as_parsed: AbstractContextManager[None]) -> Ref | None:
        """The section and unique id of the entry of `graph` that contains a container, or None."""
        if self._entries is None:
            with as_parsed:
                self._entries = self._index()
        return self._entries.get(id(container))

    def _index(self) -> dict[int, Ref]:
        entries: dict[int, Ref] = {id(self.graph): ()}
        for section, named in self.graph.items():
            entries[id(named)] = (section,)
            nodes = getattr(named, "inner_dict", None)
            for unique_id, entry in named.items():
                path = (section, unique_id)
                found = containers(entry)
                if nodes is not None:
                    # dbt-core >= 1.12: each look makes a new dict, with some containers of the node
                    lasting = containers(nodes[unique_id])
                    found = {key: each for key, each in found.items() if key in lasting}
                entries.update(dict.fromkeys(found, path))
                self._alive += found.values()
        return entries


class GraphUse:
    """How this process knows that a template uses `graph`.

    Attributes:
        noted: whether each use is noted (`patches.rendering.to_dict` does). Otherwise every template may use it.
    """

    noted = False


class TemplateState:
    """The template state of a run in one process.

    Attributes:
        graph_used: whether templates of the executing step use `graph`, or may use it (`GraphUse`).
        changed: unique ids of entries of `graph` that templates changed.
    """

    def __init__(
        self, adapter: BaseAdapter, graph: dict[str, Any], index: GraphIndex, roots: Callable[[], Mapping[str, Any]],
        copy_node: Callable[[str], Any], macro: Macro,
    ) -> None:  # fmt: skip
        """
        Args:
            graph: the run's `graph`.
            index: of the parsed `graph`.
            roots: returns the objects other than `graph` that outlive a node, by names that all processes share.
            copy_node: returns the run's own copy of a node.
            macro: returns a macro in the context of a node.
        """
        self.adapter, self.macro = adapter, macro
        self.graph_used = not GraphUse.noted
        self.changed: set[str] = set()
        self.use_graph(graph, index)
        self._roots, self._copy_node = roots, copy_node
        self._origin, self._made = secrets.token_hex(4), 0
        self._refs: dict[int, tuple[Any, Ref]] = {}
        self._values: dict[Ref, Any] = {}
        self._root_containers: dict[int, Any] | None = None
        self._nodes: Callable[[], Iterable[str]] = tuple
        self._node_containers: dict[int, Any] | None = None
        self._parsed: dict[int, tuple[Any, Any]] = {}
        self._hidden_contents: list[tuple[Any, Any]] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._new_refs: list[Ref] = []
        self._changes: list[Any] = []
        self._stored = ""
        self._lock = threading.RLock()

    def use_graph(self, graph: dict[str, Any], index: GraphIndex) -> None:
        """Set the run's `graph`, and the index of its parsed entries."""
        self._graph, self._index = graph, index

    # -- around a step -----------------------------------------------------------------------------

    def begin(self, nodes: Callable[[], Iterable[str]], changes: Iterable[list[Any]] = ()) -> None:
        """Begin a step: undo changes that were not stored, and repeat those of other processes.

        Args:
            nodes: returns the unique ids of the nodes in whose contexts the step renders templates.
            changes: changes that the ledger received since the last step of this process.
        """
        stored = list(changes)
        if self._stored and stored and stored[0][2] == self._stored:
            del stored[0]  # this process made them
        elif self._stored or self._changes:
            self._undo()
        self._stored, self._before, self._new_refs, self._changes = "", {}, [], []
        for _, _, _, each in stored:
            for change in each:
                self._repeat(change)
        self._before, self._new_refs = {}, []
        self._nodes, self._node_containers, self.graph_used = nodes, None, not GraphUse.noted

    def take_changes(self) -> tuple[str, ...]:
        """Return the step's changes as one change for the ledger, as JSON."""
        if not self._changes:
            return ()
        self._stored = secrets.token_hex(4)
        change = [self._origin, TEMPLATES, self._stored, self._changes]
        self._changes = []
        # keys of dbt's configs may be subclasses of `str`
        return (msgspec.json.encode(change, enc_hook=str).decode(),)

    def _undo(self) -> None:
        for container, before in self._before.values():
            refill(container, before)
        for ref in self._new_refs:
            self._refs.pop(id(self._values.pop(ref)), None)

    def show(self) -> None:
        """Make this run's changes of the parsed project's objects again. See `hide`."""
        for container, changed in self._hidden_contents:
            refill(container, changed)
        self._hidden_contents = []

    def hide(self) -> None:
        """Restore the parsed project's objects to their parsed content."""
        if not self._hidden_contents:
            self._hidden_contents = [
                (container, contents(container)) for container, _ in self._parsed.values()
            ]
        for container, parsed in self._parsed.values():
            refill(container, parsed)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Temporarily restore the parsed project to its parsed state."""
        self.hide()
        try:
            yield
        finally:
            self.show()

    # -- references (see `values.References`) ------------------------------------------------------

    def ref_of(self, container: Any) -> Ref | None:
        """The reference of an object that outlives its node; None for others."""
        known = self._refs.get(id(container))
        if known is not None:
            return known[1]
        if not isinstance(container, CONTAINERS):
            return None
        with self._lock:
            ref = self._parsed_ref(container)
            return None if ref is None else self.register(container, ref)

    def knows(self, value: Any) -> bool:
        """Whether a value has a reference."""
        return id(value) in self._refs

    def register(self, value: Any, ref: Ref | None = None) -> Ref:
        """Register a value under a reference, by default a new one, and return the reference."""
        if ref is None:
            self._made += 1
            ref = ("made", self._origin, self._made)
        self._refs[id(value)] = (value, ref)
        self._values[ref] = value
        if ref[0] == "made" and isinstance(value, CONTAINERS):
            self._new_refs.append(ref)
        return ref

    def resolve(self, ref: Ref) -> Any:
        """The object with this reference, or None."""
        found = self._values.get(ref)
        if found is None and ref[0] != "made":
            with self.hidden():
                root = self._graph if ref[0] == "graph" else self._root(ref)
                found = at(root, ref[1:] if ref[0] == "graph" else ref[2:])
            self.register(found, ref)
        return found

    def _root(self, ref: Ref) -> Any:
        return self._copy_node(ref[1]) if ref[0] == "node" else self._roots()[ref[1]]

    def _parsed_ref(self, container: Any) -> Ref | None:
        """The reference of an object of the parsed project; None for others."""
        if container is self._graph:
            return ("graph",)
        if self.graph_used:
            entry = self._index.entry_of(container, self.hidden())
            if entry is not None:
                with self.hidden():
                    found = walk(at(self._graph, entry))
                    return next(("graph", *entry, *path) for each, path in found if each is container)
        if self._root_containers is None:
            self._root_containers = containers(list(self._roots().values()))
        if self._node_containers is None:
            self._node_containers = containers([self._copy_node(unique_id) for unique_id in self._nodes()])
        if id(container) not in self._root_containers and id(container) not in self._node_containers:
            return None
        with self.hidden():
            nodes = {each: self._copy_node(each) for each in self._nodes()}
            return _found("beside", self._roots(), container) or _found("node", nodes, container)

    # -- recording ---------------------------------------------------------------------------------

    def record(self, container: Any, method: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a method that changes a container, and record the change if the container outlives its node.

        Args:
            call: the bound method; `method` is its name.

        Returns:
            What the method returns.
        """
        ref = self.ref_of(container)
        if ref is None:
            return call(*args, **kwargs)
        with self._lock:
            # an iterator can be read only once; a list that extends itself is copied before it grows
            extends = method == "extend"
            args = [
                list(each) if hasattr(each, "__next__") or (extends and each is container) else each
                for each in args
            ]
            was_there = is_there(container, method, args)
            self._save(container, ref)
            returned = call(*args, **kwargs)
            change = change_of(container, method, self, args, kwargs, returned, was_there=was_there)
            if change is not None:
                self._changes.append([list(ref), *change])
            return returned

    def _save(self, container: Any, ref: Ref) -> None:
        """Save the content of a container before it is changed, for `hide` and `_undo`."""
        if ref[0] != "made" and id(container) not in self._parsed:
            self._parsed[id(container)] = (container, contents(container))
        if ref[0] == "graph" and len(ref) > 2:
            self.changed.add(ref[2])
        if id(container) not in self._before:
            self._before[id(container)] = (container, contents(container))

    def _repeat(self, change: list[Any]) -> None:
        raw, method, *written = change
        ref = tuple(raw)
        container = self.resolve(ref)
        if container is None:
            raise RuntimeError(f"a template changed an object that does not exist in this process: {raw}")
        self._save(container, ref)
        # two nodes that ran at the same time may have removed the same entry
        with contextlib.suppress(LookupError, ValueError):
            repeat(container, method, self, *written)


def _found(kind: str, roots: Mapping[str, Any], container: Any) -> Ref | None:
    for name, root in roots.items():
        for found, path in walk(root):
            if found is container:
                return (kind, name, *path)
    return None
