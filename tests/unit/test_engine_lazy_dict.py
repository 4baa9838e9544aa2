"""A `LazyDict` behaves like a dict that contains all values from the start."""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import pytest

from workers.engine.patches.lazy_dict import LazyDict

NUMBERS = {"one": 1, "two": 2, "three": 3}


class Factory:
    def __init__(self) -> None:
        self.created: list[int] = []

    def __call__(self, number: int) -> str:
        self.created.append(number)
        return f"<{number}>"


def lazy_and_plain() -> tuple[LazyDict, dict[str, Any], Factory]:
    factory = Factory()
    lazy = LazyDict()
    lazy["two"] = "own"
    lazy["four"] = "<4>"
    lazy.defer(NUMBERS, factory)
    return lazy, {"one": "<1>", "two": "own", "three": "<3>", "four": "<4>"}, factory


def test_value_is_created_once_on_first_lookup() -> None:
    lazy, _, factory = lazy_and_plain()
    assert "three" in lazy
    assert "none" not in lazy
    assert bool(lazy)
    assert factory.created == []
    assert lazy["three"] == lazy.get("three") == ChainMap(lazy)["three"] == "<3>"
    assert lazy["two"] == "own"
    assert lazy.get("none", "else") == "else"
    assert factory.created == [3]
    with pytest.raises(KeyError, match="none"):
        lazy["none"]
    assert not LazyDict()


@pytest.mark.parametrize(
    "look",
    [
        list, len, repr, sorted, lambda d: list(reversed(d)), dict, lambda d: dict(**d),
        lambda d: {**d}, lambda d: d.copy(), lambda d: d | {"x": 1}, lambda d: {"x": 1} | d,
        lambda d: list(d.keys()), lambda d: list(d.values()), lambda d: list(d.items()),
        lambda d: (d.pop("one"), list(d)), lambda d: (d.popitem(), list(d)), lambda d: (d.clear(), list(d)),
        lambda d: d.setdefault("three", 0), lambda d: d.setdefault("five", 0), lambda d: d.get([]),
        lambda d: (d.update(one="x", five="y"), list(d.items())), lambda d: d.__delitem__("three") or list(d.items()),
        copy.copy, copy.deepcopy, lambda d: d == {}, lambda d: d != {}, lambda d: d != {"one": "<1>", "two": "own", "three": "<3>", "four": "<4>"}, lambda d: d.pop("none"), lambda d: d["none"],
    ],
)  # fmt: skip
def test_operations_return_what_a_dict_returns(look: Callable[[Any], Any]) -> None:
    def answer(mapping: Any) -> Any:
        try:
            return look(mapping)
        except (KeyError, TypeError) as error:
            return repr(error)

    lazy, plain, _ = lazy_and_plain()
    assert answer(lazy) == answer(plain)
    assert list(lazy.items()) == list(plain.items())


def test_lazy_dict_equals_the_plain_dict() -> None:
    lazy, plain, _ = lazy_and_plain()
    assert lazy == plain
    assert lazy | {} == plain


def test_snapshot_is_independent_and_creates_its_own_values() -> None:
    lazy, plain, factory = lazy_and_plain()
    snapshot = lazy.snapshot()
    lazy["one"] = "changed"
    assert snapshot.names() == set(plain)
    assert factory.created == []
    assert snapshot["one"] == "<1>"
    assert snapshot == plain
