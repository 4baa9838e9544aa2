"""The test classes of dbt-tests-adapter, found in the package, as classes that pytest collects here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = "dbt.tests.adapter"
SIDES = ("plain", "relay")


def published() -> dict[str, type]:
    """Every class of the package that has tests, by its name below the package.

    A class that another one takes over whole (``class TestConcat(BaseConcat): pass``) is left out for
    the other: it would run the same tests twice.
    """
    found = {_name(each): each for each in _classes()}
    taken_over = {
        base
        for each in found.values()
        for base in each.__bases__
        if not any(name for name in vars(each) if not name.startswith("__"))
    }
    return {name: each for name, each in sorted(found.items()) if each not in taken_over}


def _classes() -> Iterator[type]:
    root = Path(next(iter(importlib.import_module(PACKAGE).__path__)))
    for path in sorted(root.rglob("*.py")):  # most of its folders are no packages
        module = importlib.import_module(".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)))
        for each in vars(module).values():
            if (
                inspect.isclass(each)
                and each.__module__ == module.__name__
                and any(name.startswith("test_") and callable(getattr(each, name)) for name in dir(each))
            ):
                yield each


def _name(each: type) -> str:
    parts = each.__module__.removeprefix(f"{PACKAGE}.").split(".")
    return ".".join([*(part.removeprefix("test_") for part in parts), each.__name__])


def both_sides(names: Iterable[str], changes: Mapping[str, type]) -> dict[str, type]:
    """A class for each side of each name, to be put into the globals of a test module.

    Args:
        names: of `published` classes.
        changes: what an adapter has to say otherwise: mixins, by the names of the classes.

    Raises:
        KeyError: the package has no such class.
    """
    found = published()
    made: dict[str, Any] = {}
    for name in sorted(names):
        each = found[name]
        bases = (changes[name], each) if name in changes else (each,)
        for side in SIDES:
            collected = f"Test_{side}_{name.replace('.', '__')}"
            made[collected] = type(collected, bases, {"side": side, "__test__": True, "__module__": __name__})
    return made
