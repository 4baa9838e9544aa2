"""dbt's relation cache, told to every process of a run.

dbt fills its cache once, when a run begins, and from then on changes it with what its own nodes do.
Other processes do part of that work here, so every change is recorded, travels through the ledger
with the result of the node that made it, and is replayed by whoever executes a later node. So each
process sees what one dbt process would see: neither less (a relation that another process made) nor
more (one that appeared outside of dbt). What dbt has warned of already (deprecations, once an
invocation each) travels the same way.
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

from workers.engine.patches.cached_relations import narrowing
from workers.engine.patches.registry import enabled
from workers.engine.template_state.state import TEMPLATES


class CacheRecorder:
    """A run's relation cache in this process: records its changes, replays those made elsewhere."""

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
        """Make it the adapter's cache, and the run's deprecations dbt's."""
        self.adapter.cache = self.cache
        active_deprecations.clear()
        active_deprecations.update(self.deprecated)

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Note nothing that this thread changes."""
        before = getattr(self._local, "quiet", False)
        self._local.quiet = True
        try:
            yield
        finally:
            self._local.quiet = before

    def record(self, what: str, *about: Any) -> None:
        """Note one change, unless it is being replayed or part of another."""
        if not getattr(self._local, "quiet", False):
            self.changes.append([what, *about])

    def take_changes(self) -> tuple[str, ...]:
        """The changes since the last call, JSON each."""
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
        """The whole cache as one change."""
        cache = self.cache
        with cache.lock:
            links = [
                [list(key), list(referrer)]
                for key, cached in cache.relations.items()
                for referrer in cached.referenced_by
            ]
            relations = _alike(cached.inner for cached in cache.relations.values())
            schemas = [list(schema) for schema in cache.schemas]
        self.changes = []
        told = [self.origin, "snapshot", relations, links, schemas, self.position]
        return msgspec.json.encode(told).decode()

    def replay(self, changes: Iterable[bytes]) -> list[list[Any]]:
        """Apply the run's next changes; those that came from here are in the cache already.

        A snapshot is told with its node's result, some time after the warehouse was asked: what other nodes
        told meanwhile is applied again on top of it. The warehouse may have shown some of that already.

        Returns:
            the changes that are none of the cache (`template_state`).
        """
        restored = False
        others: list[list[Any]] = []
        with self.quietly():
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
                    for told in self._replayed[change[4] : -1]:
                        _, *meanwhile = msgspec.json.decode(told)
                        if meanwhile[0] not in {"snapshot", "deprecated", TEMPLATES}:
                            self._apply(meanwhile)
        return others

    def _apply(self, change: list[Any]) -> None:
        cache = self.cache
        what, *rest = change
        if what == "snapshot":
            self._restore(*rest[:3])
        elif what == "add":
            cache.add(self._relation(rest[0]))
        elif what == "drop":
            cache.drop(self._relation(rest[0]))
        elif what == "rename":
            old, new = self._relation(rest[0]), self._relation(rest[1])
            if _make_ref_key(old) in cache.relations and _make_ref_key(new) in cache.relations:
                cache.drop(new)  # a snapshot was taken in the middle of the node that made it
            if _make_ref_key(old) in cache.relations:
                cache.rename(old, new)
            else:
                cache.add(new)
        elif what == "add_link":
            cache.add_link(self._relation(rest[0]), self._relation(rest[1]))
        elif what == "update_schemas":
            cache.update_schemas([(database, schema) for database, schema in rest[0]])
        elif what == "drop_schema":
            cache.drop_schema(rest[0], rest[1])
        elif what == "deprecated":
            self.deprecated.update(rest[0])
            active_deprecations.update(rest[0])

    def _restore(self, relations: list[Any], links: list[Any], schemas: list[Any]) -> None:
        cache = self.cache
        cache.clear()
        for like, paths in relations:
            first = self._relation(like)
            for path in paths:
                cache.add(first.replace_path(**path))
        with cache.lock:
            for key, referrer in links:
                if tuple(key) in cache.relations and tuple(referrer) in cache.relations:
                    cache._add_link(tuple(key), tuple(referrer))
        cache.update_schemas([(database, schema) for database, schema in schemas])

    def _relation(self, plain: dict[str, Any]) -> Any:
        return self.adapter.Relation.from_dict(plain)


def _plain(about: Any) -> Any:
    """A relation as JSON can carry it; names of schemas and databases are carried as they are."""
    if not hasattr(about, "to_dict"):
        return about
    if type(about.type) is str:  # a macro replaced it, and knows no enumerations; dbt cannot serialize that
        about = about.replace(type=RelationType(about.type))
    return about.to_dict(omit_none=True)


def _alike(relations: Iterable[Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Relations that differ in nothing but their names: one of them as JSON can carry it, and the names of all.

    A schema holds some thousand tables and views of two or three kinds; an adapter that knows more of each
    has a kind for each.
    """
    kinds: dict[type, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
    told = []
    for relation in relations:
        rest = {**vars(relation), "path": None}
        known = kinds.setdefault(type(relation), [])
        paths = next((paths for kind, paths in reversed(known[-_KINDS:]) if kind == rest), None)
        if paths is None:
            paths = []
            known.append((rest, paths))
            told.append((_plain(relation), paths))
        paths.append(vars(relation.path))
    return told


_KINDS = 8
"""Among how many kinds to look for a relation's."""


def _recording(base: type[RelationsCache], recorder: CacheRecorder) -> RelationsCache:
    base = next(each for each in base.__mro__ if not vars(each).get("_records"))

    class RecordingCache(base):  # type: ignore[valid-type, misc]
        """dbt's cache; every change is told to the recorder once it was made."""

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
            with recorder.quietly():  # it drops relation by relation, by their keys
                super().drop_schema(database, schema)
            recorder.record("drop_schema", database, schema)

        def __init__(self) -> None:
            super().__init__(log_cache_events=False)

    return narrowing(RecordingCache)() if enabled("cached-relations") else RecordingCache()
