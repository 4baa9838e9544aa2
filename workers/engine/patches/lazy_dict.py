"""A dict whose values are made when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_NOTHING: Mapping[str, Any] = {}


class Later(dict[str, Any]):
    """A dict that makes a value when its key is first looked up, and all of them before anybody could tell.

    Looking up a key, asking whether there is one and setting one is done without making others. Whatever sees
    more than one entry (iteration, copies, comparison) or removes one first makes what is not made yet.
    """

    __slots__ = ("_make", "_waiting")

    _waiting: Mapping[str, Any]
    _make: Callable[[Any], Any]

    def __init__(self, waiting: Mapping[str, Any] = _NOTHING, make: Callable[[Any], Any] = str) -> None:
        super().__init__()
        self.wait(waiting, make)

    def wait(self, waiting: Mapping[str, Any], make: Callable[[Any], Any]) -> None:
        """Have these keys, in this order, and of those that are not set yet make the values of what `waiting` says."""
        self._waiting, self._make = waiting, make

    def snapshot(self) -> Later:
        """A copy that makes its own values later."""
        copy = Later(self._waiting, self._make)
        dict.update(copy, self._made())
        return copy

    def names(self) -> set[str]:
        """All keys, with nothing made."""
        return {*self._made(), *self._waiting}

    def _made(self) -> dict[str, Any]:
        return dict(dict.items(self))  # a copy by dict itself asks for `keys`

    def _all(self) -> None:
        if self._waiting:
            known = self._made()
            made = {
                key: known[key] if key in known else self._make(what) for key, what in self._waiting.items()
            }
            made.update(known)
            self._waiting = _NOTHING
            dict.clear(self)
            dict.update(self, made)

    def __missing__(self, key: str) -> Any:
        made = self._make(self._waiting[key])
        dict.__setitem__(self, key, made)
        return made

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or key in self._waiting

    def __bool__(self) -> bool:
        return bool(dict.__len__(self) or self._waiting)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        return self[key] if key in self else default  # noqa: SIM401 - that is this method

    def __reduce_ex__(self, _: Any) -> Any:
        return dict, (self.copy(),)


def _all_first(name: str) -> Callable[..., Any]:
    of_dict = getattr(dict, name)

    def method(self: Later, *args: Any, **kwargs: Any) -> Any:
        self._all()
        return of_dict(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = of_dict.__doc__
    return method


for _name in ("__iter__", "__len__", "__reversed__", "__repr__", "__eq__", "__ne__", "__or__", "__ror__", "__delitem__",
              "keys", "values", "items", "copy", "pop", "popitem", "setdefault", "clear"):  # fmt: skip
    setattr(Later, _name, _all_first(_name))
