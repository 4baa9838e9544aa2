"""Finds the test classes of dbt-tests-adapter and makes classes of them that pytest collects here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = "dbt.tests.adapter"
SIDES = ("plain", "relay")


def published() -> dict[str, type]:
    """All classes of the package that have tests, by their name below the package.

    A class with an unchanged subclass (``class TestConcat(BaseConcat): pass``) is left out, because the
    subclass runs the same tests.
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
    for path in sorted(root.rglob("*.py")):  # most folders are not packages
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
    """Make a class for each side of each name, for the globals of a test module.

    Args:
        names: of `published` classes.
        changes: mixins with adapter-specific changes, by the names of the classes.

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
