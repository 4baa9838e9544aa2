"""A relation cache that looks relations up by their names."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from dbt.adapters.cache import RelationsCache
from dbt.adapters.exceptions.cache import NoneRelationFoundError
from dbt_common.utils.formatting import lowercase


def narrowing(base: type[RelationsCache]) -> type[RelationsCache]:
    class NarrowedCache(base):  # type: ignore[valid-type, misc]
        """A cache that looks relations up by the spelling of their names."""

        _records = True

        def __init__(self) -> None:
            super().__init__()
            self.relations: _BySpelling = _BySpelling()
            self._narrow = threading.local()

        @contextlib.contextmanager
        def only_identifier(self, identifier: str) -> Iterator[None]:
            """Within, this thread is told only of relations that are spelled like `identifier`."""
            self._narrow.to = _spelled(identifier)
            try:
                yield
            finally:
                self._narrow.to = None

        def get_relations(self, database: str | None, schema: str | None) -> list[Any]:
            # dbt folds the names of every relation again; they are folded in its keys
            wanted, spelled = (lowercase(database), lowercase(schema)), getattr(self._narrow, "to", None)
            with self.lock:
                keys = self.relations if spelled is None else self.relations.spelled(spelled)
                found = [self.relations[key].inner for key in keys if key[:2] == wanted]
            if any(relation is None for relation in found):
                raise NoneRelationFoundError
            return found

    return NarrowedCache


QUOTE_CHARACTERS = '"`'
"""What adapters quote names with."""


def _spelled(identifier: str | None) -> str:
    return (identifier or "").lower().strip(QUOTE_CHARACTERS)


class _BySpelling(dict[Any, Any]):
    """Cached relations by their keys, and keys by what they are spelled like."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, dict[Any, None]] = {}

    def spelled(self, like: str) -> Iterable[Any]:
        """Keys of relations whose identifier is spelled like this."""
        return self._keys.get(like, ())

    def __setitem__(self, key: Any, cached: Any) -> None:
        super().__setitem__(key, cached)
        self._keys.setdefault(_spelled(key[2]), {})[key] = None

    def setdefault(self, key: Any, cached: Any = None) -> Any:
        """See `dict.setdefault`."""
        if key not in self:
            self[key] = cached
        return self[key]

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._forget(key)

    def pop(self, key: Any, *default: Any) -> Any:
        """See `dict.pop`."""
        found = super().pop(key, *default)
        self._forget(key)
        return found

    def clear(self) -> None:
        """See `dict.clear`."""
        super().clear()
        self._keys.clear()

    def _forget(self, key: Any) -> None:
        keys = self._keys.get(_spelled(key[2]), {})
        keys.pop(key, None)
        if not keys:
            self._keys.pop(_spelled(key[2]), None)

    def popitem(self) -> tuple[Any, Any]:
        """See `dict.popitem`."""
        key, cached = super().popitem()
        self._forget(key)
        return key, cached

    def update(self, *args: Any, **kwargs: Any) -> None:
        """See `dict.update`."""
        for key, cached in dict(*args, **kwargs).items():
            self[key] = cached
