"""A relation cache with an index by identifier: dbt searches all relations of a schema for one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from dbt.adapters.cache import RelationsCache
from dbt.adapters.exceptions.cache import NoneRelationFoundError
from dbt_common.utils.formatting import lowercase


def indexed(base: type[RelationsCache]) -> type[RelationsCache]:
    class IndexedCache(base):  # type: ignore[valid-type, misc]
        """A relation cache with an index by identifier."""

        _records = True

        def __init__(self) -> None:
            super().__init__()
            self.relations: _IndexedRelations = _IndexedRelations()
            self._local = threading.local()

        @contextlib.contextmanager
        def only_identifier(self, identifier: str) -> Iterator[None]:
            """Make `get_relations` return to this thread only relations whose identifier equals this one in lower
            case and without quotes."""
            self._local.identifier = _normalized(identifier)
            try:
                yield
            finally:
                self._local.identifier = None

        def get_relations(self, database: str | None, schema: str | None) -> list[Any]:
            # dbt folds the names of every relation again; the keys contain the folded names
            wanted, identifier = (
                (lowercase(database), lowercase(schema)),
                getattr(self._local, "identifier", None),
            )
            with self.lock:
                keys = self.relations if identifier is None else self.relations.keys_of(identifier)
                found = [self.relations[key].inner for key in keys if key[:2] == wanted]
            if any(relation is None for relation in found):
                raise NoneRelationFoundError
            return found

    return IndexedCache


QUOTE_CHARACTERS = '"`'
"""Characters with which adapters quote names."""


def _normalized(identifier: str | None) -> str:
    return (identifier or "").lower().strip(QUOTE_CHARACTERS)


class _IndexedRelations(dict[Any, Any]):
    """Cached relations by key, with an index of the keys by normalized identifier."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, dict[Any, None]] = {}

    def keys_of(self, identifier: str) -> Iterable[Any]:
        """Keys of the relations with this normalized identifier."""
        return self._keys.get(identifier, ())

    def __setitem__(self, key: Any, cached: Any) -> None:
        super().__setitem__(key, cached)
        self._keys.setdefault(_normalized(key[2]), {})[key] = None

    def setdefault(self, key: Any, cached: Any = None) -> Any:
        """See `dict.setdefault`."""
        if key not in self:
            self[key] = cached
        return self[key]

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._unindex(key)

    def pop(self, key: Any, *default: Any) -> Any:
        """See `dict.pop`."""
        found = super().pop(key, *default)
        self._unindex(key)
        return found

    def clear(self) -> None:
        """See `dict.clear`."""
        super().clear()
        self._keys.clear()

    def _unindex(self, key: Any) -> None:
        keys = self._keys.get(_normalized(key[2]), {})
        keys.pop(key, None)
        if not keys:
            self._keys.pop(_normalized(key[2]), None)

    def popitem(self) -> tuple[Any, Any]:
        """See `dict.popitem`."""
        key, cached = super().popitem()
        self._unindex(key)
        return key, cached

    def update(self, *args: Any, **kwargs: Any) -> None:
        """See `dict.update`."""
        for key, cached in dict(*args, **kwargs).items():
            self[key] = cached
