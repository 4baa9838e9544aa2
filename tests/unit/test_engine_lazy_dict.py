"""A dict that makes its values later cannot be told from one that made them at once."""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import pytest

from workers.engine.patches.lazy_dict import LazyDict

NUMBERS = {"one": 1, "two": 2, "three": 3}


class Maker:
    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> str:
        self.made.append(number)
        return f"<{number}>"


def both() -> tuple[LazyDict, dict[str, Any], Maker]:
    maker = Maker()
    later = LazyDict()
    later["two"] = "own"
    later["four"] = "<4>"
    later.defer(NUMBERS, maker)
    return later, {"one": "<1>", "two": "own", "three": "<3>", "four": "<4>"}, maker


def test_a_value_is_made_once_when_it_is_looked_at() -> None:
    later, _, maker = both()
    assert "three" in later
    assert "none" not in later
    assert bool(later)
    assert maker.made == []
    assert later["three"] == later.get("three") == ChainMap(later)["three"] == "<3>"
    assert later["two"] == "own"
    assert later.get("none", "else") == "else"
    assert maker.made == [3]
    with pytest.raises(KeyError, match="none"):
        later["none"]
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
def test_it_looks_like_a_dict(look: Callable[[Any], Any]) -> None:
    def answer(mapping: Any) -> Any:
        try:
            return look(mapping)
        except (KeyError, TypeError) as error:
            return repr(error)

    later, plain, _ = both()
    assert answer(later) == answer(plain)
    assert list(later.items()) == list(plain.items())


def test_it_equals_what_it_stands_for() -> None:
    later, plain, _ = both()
    assert later == plain
    assert later | {} == plain


def test_a_snapshot_sees_no_later_change_and_makes_its_own_values() -> None:
    later, plain, maker = both()
    snapshot = later.snapshot()
    later["one"] = "changed"
    assert snapshot.names() == set(plain)
    assert maker.made == []
    assert snapshot["one"] == "<1>"
    assert snapshot == plain
