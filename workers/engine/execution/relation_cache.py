"""Replicates dbt's relation cache to every process of a run.

dbt fills its cache when a run begins, and afterwards updates it for the relations that its own nodes create and
drop. Here several processes execute these nodes. So each change is recorded, stored in the ledger with the result of
its node, and replayed by the processes that execute later nodes. Each process then sees what one dbt process would
see: relations that other processes of the run made, but none that appeared outside of dbt. Deprecations, which dbt
reports once per invocation, are replicated in the same way.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from dbt.adapters.base import BaseAdapter
from dbt.adapters.cache import RelationsCache
from dbt.adapters.contracts.relation import RelationType
from dbt.adapters.reference_keys import _make_ref_key
from dbt.deprecations import active_deprecations

from workers.engine.patches.cached_relations import indexed
from workers.engine.patches.registry import enabled
from workers.engine.template_state.state import TEMPLATES


class CacheRecorder:
    """A run's relation cache in this process: records its changes, replays those of other processes.

    Attributes:
        origin: random id of this recorder, stored with each of its changes.
        position: number of the run's changes that were replayed.
        changes: recorded changes that were not taken yet.
        deprecated: how often each deprecation was reported in the run.
    """

    def __init__(self, adapter: BaseAdapter) -> None:
        self.adapter = adapter
        self.origin = secrets.token_hex(4)
        self.position = 0
        self._replayed: list[bytes] = []
        self.changes: list[list[Any]] = []
        self.deprecated: Counter[str] = Counter()
        self.cache = _recording(type(adapter.cache), self)
        self._local = threading.local()

    def use(self) -> None:
        """Make this the adapter's cache, and set dbt's deprecations to those of the run."""
        self.adapter.cache = self.cache
        active_deprecations.clear()
        active_deprecations.update(self.deprecated)

    @contextlib.contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Do not record the changes that this thread makes."""
        before = getattr(self._local, "paused", False)
        self._local.paused = True
        try:
            yield
        finally:
            self._local.paused = before

    def record(self, operation: str, *arguments: Any) -> None:
        """Record one change, unless it is being replayed or is part of another."""
        if not getattr(self._local, "paused", False):
            self.changes.append([operation, *arguments])

    def take_changes(self) -> tuple[str, ...]:
        """Return the changes since the last call, each as JSON."""
        deprecated = Counter(active_deprecations) - self.deprecated
        if deprecated:
            self.deprecated += deprecated
            self.changes.append(["deprecated", deprecated])
        taken = tuple(
            msgspec.json.encode([self.origin, *map(_plain, change)]).decode() for change in self.changes
        )
        self.changes = []
        return taken

    def snapshot(self) -> str:
        """Return the whole cache as one change, as JSON."""
        cache = self.cache
        with cache.lock:
            links = [
                [list(key), list(referrer)]
                for key, cached in cache.relations.items()
                for referrer in cached.referenced_by
            ]
            relations = _grouped(cached.inner for cached in cache.relations.values())
            schemas = [list(schema) for schema in cache.schemas]
        self.changes = []
        change = [self.origin, "snapshot", relations, links, schemas, self.position]
        return msgspec.json.encode(change).decode()

    def replay(self, changes: Iterable[bytes]) -> list[list[Any]]:
        """Apply the run's next changes, except those of this recorder, which are in the cache already.

        A snapshot is stored with its node's result, some time after the warehouse was queried. So changes that other
        nodes stored since then are applied again on top of it, even if the snapshot contains some of them.

        Returns:
            The changes that belong to `template_state`.
        """
        restored = False
        others: list[list[Any]] = []
        with self.unrecorded():
            for raw in changes:
                self.position += 1
                origin, *change = msgspec.json.decode(raw)
                self._replayed.append(raw)
                if change[0] == TEMPLATES:
                    others.append([origin, *change])
                    continue
                if origin == self.origin and (not restored or change[0] == "deprecated"):
                    continue
                self._apply(change)
                if change[0] == "snapshot":
                    restored = True
                    for raw_since in self._replayed[change[4] : -1]:
                        _, *since = msgspec.json.decode(raw_since)
                        if since[0] not in {"snapshot", "deprecated", TEMPLATES}:
                            self._apply(since)
        return others

    def _apply(self, change: list[Any]) -> None:
        cache = self.cache
        operation, *rest = change
        if operation == "snapshot":
            self._restore(*rest[:3])
        elif operation == "add":
            cache.add(self._relation(rest[0]))
        elif operation == "drop":
            cache.drop(self._relation(rest[0]))
        elif operation == "rename":
            old, new = self._relation(rest[0]), self._relation(rest[1])
            if _make_ref_key(old) in cache.relations and _make_ref_key(new) in cache.relations:
                cache.drop(new)  # from a snapshot that was taken while the node was renaming
            if _make_ref_key(old) in cache.relations:
                cache.rename(old, new)
            else:
                cache.add(new)
        elif operation == "add_link":
            cache.add_link(self._relation(rest[0]), self._relation(rest[1]))
        elif operation == "update_schemas":
            cache.update_schemas([(database, schema) for database, schema in rest[0]])
        elif operation == "drop_schema":
            cache.drop_schema(rest[0], rest[1])
        elif operation == "deprecated":
            self.deprecated.update(rest[0])
            active_deprecations.update(rest[0])

    def _restore(self, relations: list[Any], links: list[Any], schemas: list[Any]) -> None:
        cache = self.cache
        cache.clear()
        for example, paths in relations:
            relation = self._relation(example)
            for path in paths:
                cache.add(relation.replace_path(**path))
        with cache.lock:
            for key, referrer in links:
                if tuple(key) in cache.relations and tuple(referrer) in cache.relations:
                    cache._add_link(tuple(key), tuple(referrer))
        cache.update_schemas([(database, schema) for database, schema in schemas])

    def _relation(self, plain: dict[str, Any]) -> Any:
        return self.adapter.Relation.from_dict(plain)


def _plain(argument: Any) -> Any:
    """Convert a relation to JSON-compatible data; other arguments (names of schemas and databases) are unchanged."""
    if not hasattr(argument, "to_dict"):
        return argument
    if type(argument.type) is str:  # set by a macro; dbt serializes only the enumeration
        argument = argument.replace(type=RelationType(argument.type))
    return argument.to_dict(omit_none=True)


def _grouped(relations: Iterable[Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Group relations that differ only in their names: one of them as plain data, and the names of all.

    This keeps a snapshot small: thousands of tables and views usually form two or three groups. Adapters that store
    more facts of each relation have more groups.
    """
    groups: dict[type, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
    found = []
    for relation in relations:
        rest = {**vars(relation), "path": None}
        of_type = groups.setdefault(type(relation), [])
        paths = next((paths for other, paths in reversed(of_type[-_COMPARED:]) if other == rest), None)
        if paths is None:
            paths = []
            of_type.append((rest, paths))
            found.append((_plain(relation), paths))
        paths.append(vars(relation.path))
    return found


_COMPARED = 8
"""How many recent groups a relation is compared with; limits the time where each relation differs."""


def _recording(base: type[RelationsCache], recorder: CacheRecorder) -> RelationsCache:
    base = next(each for each in base.__mro__ if not vars(each).get("_records"))

    class RecordingCache(base):  # type: ignore[valid-type, misc]
        """dbt's cache; reports each change to the recorder after it was made."""

        _records = True

        def add(self, relation: Any) -> None:
            super().add(relation)
            recorder.record("add", relation)

        def drop(self, relation: Any) -> None:
            super().drop(relation)
            recorder.record("drop", relation)

        def rename(self, old: Any, new: Any) -> None:
            super().rename(old, new)
            recorder.record("rename", old, new)

        def add_link(self, referenced: Any, dependent: Any) -> None:
            super().add_link(referenced, dependent)
            recorder.record("add_link", referenced, dependent)

        def update_schemas(self, schemas: Any) -> None:
            schemas = list(schemas)
            super().update_schemas(schemas)
            recorder.record("update_schemas", [list(schema) for schema in schemas])

        def drop_schema(self, database: Any, schema: Any) -> None:
            with recorder.unrecorded():  # dbt drops each relation of the schema with `drop`
                super().drop_schema(database, schema)
            recorder.record("drop_schema", database, schema)

        def __init__(self) -> None:
            super().__init__(log_cache_events=False)

    return indexed(RecordingCache)() if enabled("cached-relations") else RecordingCache()
