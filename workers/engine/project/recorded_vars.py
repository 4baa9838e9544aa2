"""The vars of an invocation, telling who looks into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

EVERYTHING: Final = "*"
"""Stands for the names of all vars: somebody looked at the whole mapping."""


class WatchedVars(dict[str, Any]):
    """A mapping of vars. Whatever can be learned of it by its methods is told to `note` first: the name that was
    asked for, or `EVERYTHING`."""

    def __init__(self, plain: Mapping[str, Any], note: Callable[[str], None]) -> None:
        super().__init__(plain)
        self._note = note

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self.items()),)


def _about_one(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    def look(self: WatchedVars, key: Any, *default: Any) -> Any:
        self._note(str(key))
        return plain(self, key, *default)

    return look


def _about_all(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    def look(self: WatchedVars, *other: Any) -> Any:
        self._note(EVERYTHING)
        return plain(self, *other)

    return look


for _name in ("__getitem__", "__contains__", "get", "pop", "setdefault"):
    setattr(WatchedVars, _name, _about_one(_name))
for _name in ("__iter__", "__reversed__", "__len__", "__eq__", "__ne__", "__or__", "__ror__", "__repr__", "keys",
              "values", "items", "copy", "popitem"):  # fmt: skip
    setattr(WatchedVars, _name, _about_all(_name))
