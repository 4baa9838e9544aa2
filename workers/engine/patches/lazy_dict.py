"""A dict that creates its values when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_EMPTY: Mapping[str, Any] = {}


class LazyDict(dict[str, Any]):
    """A dict that creates a value when its key is first looked up. Otherwise it behaves like a dict.

    A lookup, a test for a key and an assignment create no other value. Operations that read several entries (iteration,
    copies, comparison) or remove one first create all values that are still missing.
    """

    __slots__ = ("_make", "_pending")

    _pending: Mapping[str, Any]
    _make: Callable[[Any], Any]

    def __init__(self, pending: Mapping[str, Any] = _EMPTY, make: Callable[[Any], Any] = str) -> None:
        super().__init__()
        self.defer(pending, make)

    def defer(self, pending: Mapping[str, Any], make: Callable[[Any], Any]) -> None:
        """Add these keys, in this order. A missing value is created by calling `make` with the key's value in `pending`."""
        self._pending, self._make = pending, make

    def snapshot(self) -> LazyDict:
        """Return a copy that creates its missing values itself."""
        copy = LazyDict(self._pending, self._make)
        dict.update(copy, self._created())
        return copy

    def names(self) -> set[str]:
        """All keys; creates no value."""
        return {*self._created(), *self._pending}

    def _created(self) -> dict[str, Any]:
        return dict(dict.items(self))  # dict(self) would call `keys`

    def _create_all(self) -> None:
        if self._pending:
            known = self._created()
            created = {
                key: known[key] if key in known else self._make(source)
                for key, source in self._pending.items()
            }
            created.update(known)
            self._pending = _EMPTY
            dict.clear(self)
            dict.update(self, created)

    def __missing__(self, key: str) -> Any:
        created = self._make(self._pending[key])
        dict.__setitem__(self, key, created)
        return created

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or key in self._pending

    def __bool__(self) -> bool:
        return bool(dict.__len__(self) or self._pending)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        return self[key] if key in self else default  # noqa: SIM401 - this is that method

    def __reduce_ex__(self, _: Any) -> Any:
        return dict, (self.copy(),)


def _create_all_first(name: str) -> Callable[..., Any]:
    of_dict = getattr(dict, name)

    def method(self: LazyDict, *args: Any, **kwargs: Any) -> Any:
        self._create_all()
        return of_dict(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = of_dict.__doc__
    return method


for _name in ("__iter__", "__len__", "__reversed__", "__repr__", "__eq__", "__ne__", "__or__", "__ror__", "__delitem__",
              "keys", "values", "items", "copy", "pop", "popitem", "setdefault", "clear"):  # fmt: skip
    setattr(LazyDict, _name, _create_all_first(_name))
