"""A mapping of vars that records each lookup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

EVERYTHING: Final = "*"
"""Stands for the names of all vars: the whole mapping was read."""


class RecordedVars(dict[str, Any]):
    """A mapping of vars. Each of its methods first calls `note` with the name that is looked up, or `EVERYTHING`."""

    def __init__(self, plain: Mapping[str, Any], note: Callable[[str], None]) -> None:
        super().__init__(plain)
        self._note = note

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self.items()),)


def _about_one(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    def look(self: RecordedVars, key: Any, *default: Any) -> Any:
        self._note(str(key))
        return plain(self, key, *default)

    return look


def _about_all(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    def look(self: RecordedVars, *other: Any) -> Any:
        self._note(EVERYTHING)
        return plain(self, *other)

    return look


for _name in ("__getitem__", "__contains__", "get", "pop", "setdefault"):
    setattr(RecordedVars, _name, _about_one(_name))
for _name in ("__iter__", "__reversed__", "__len__", "__eq__", "__ne__", "__or__", "__ror__", "__repr__", "keys",
              "values", "items", "copy", "popitem"):  # fmt: skip
    setattr(RecordedVars, _name, _about_all(_name))
