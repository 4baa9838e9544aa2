"""What each method that changes a container did, as JSON, and how another process does the same.

A change names what was added or removed and not what the container holds afterwards, where it can: so the changes of
two nodes that executed side by side add up, as they do in dbt's threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2.utils import Namespace

from workers.engine.template_state.values import (
    Names,
    decode,
    decode_all,
    decode_pairs,
    encode,
    encode_all,
    pairs,
    refill,
    type_of,
)

CHANGING = frozenset(
    {"add", "append", "clear", "difference_update", "discard", "extend", "insert", "intersection_update", "pop",
     "popitem", "remove", "reverse", "setdefault", "sort", "symmetric_difference_update", "update"}
)  # fmt: skip
"""Methods of dict, list and set that change it."""

SET = "set"
"""Stands for ``{% set namespace.name = value %}``, of which the arguments are name and value."""


def is_there(container: Any, method: str, args: list[Any]) -> bool:
    """Whether the key that a dict's `setdefault` or `pop` is given is in it."""
    return isinstance(container, dict) and method in _UNLESS_THERE and bool(args) and args[0] in container


def change_of(
    container: Any,
    method: str,
    names: Names,
    args: list[Any],
    more: dict[str, Any],
    answer: Any,
    *,
    was_there: bool,
) -> list[Any] | None:
    """What a method has done to a container, or None if nothing.

    Args:
        args, more: what the method was given; `answer`: what it returned.
        was_there: see `is_there`, before the call.
    """
    if method in _UNLESS_THERE and isinstance(container, dict) and was_there is _UNLESS_THERE[method]:
        return None
    tell = _TOLD.get((type_of(container), method))
    if tell is None:
        return ["contents", encode_all(container, names)]
    return tell(names, answer, *args, **more)


def repeat(container: Any, method: str, names: Names, *written: Any) -> None:
    """Do what `change_of` wrote."""
    _REPEAT[method](container, names, *written)


_UNLESS_THERE = {"setdefault": True, "pop": False}
"""Methods of a dict that change nothing if their key is, or is not, there."""


def _with(name: str) -> Callable[..., list[Any]]:
    return lambda names, _, value: [name, encode(value, names)]


_TOLD: dict[tuple[type, str], Callable[..., list[Any]]] = {
    (dict, "clear"): lambda *_: ["clear"],
    (dict, "update"): lambda names, _, *given, **more: ["update", pairs(dict(*given, **more), names)],
    (dict, "setdefault"): lambda names, answer, key, *_: ["update", pairs({key: answer}, names)],
    (dict, "pop"): lambda names, _, key, *__: ["delete", encode(key, names)],
    (dict, "popitem"): lambda names, answer: ["delete", encode(answer[0], names)],
    (list, "clear"): lambda *_: ["clear"],
    (list, "append"): _with("append"),
    (list, "remove"): _with("remove"),
    (list, "extend"): lambda names, _, values: ["extend", encode_all(values, names)],
    (list, "insert"): lambda names, _, place, value: ["insert", place, encode(value, names)],
    (list, "pop"): lambda _, __, *place: ["pop", *place],
    (set, "clear"): lambda *_: ["clear"],
    (set, "add"): _with("add"),
    (set, "discard"): _with("discard"),
    (set, "remove"): _with("discard"),
    (set, "pop"): lambda names, answer: ["discard", encode(answer, names)],
    (set, "update"): lambda names, _, *given: [
        "add",
        *(encode(value, names) for each in given for value in each),
    ],
    (Namespace, SET): lambda names, _, name, value: ["update", pairs({name: value}, names)],
}


def _update(container: Any, names: Names, written: Any) -> None:
    for key, value in decode_pairs(written, names).items():
        container[key] = value


_REPEAT: dict[str, Callable[..., Any]] = {
    "clear": lambda container, _: container.clear(),
    "update": _update,
    "delete": lambda container, names, key: container.pop(decode(key, names), None),
    "append": lambda container, names, value: container.append(decode(value, names)),
    "remove": lambda container, names, value: container.remove(decode(value, names)),
    "extend": lambda container, names, values: container.extend(decode_all(values, names)),
    "insert": lambda container, names, place, value: container.insert(place, decode(value, names)),
    "pop": lambda container, _, *place: container.pop(*place),
    "add": lambda container, names, *values: container.update(decode_all(values, names)),
    "discard": lambda container, names, value: container.discard(decode(value, names)),
    "contents": lambda container, names, values: refill(container, decode_all(values, names)),
}
