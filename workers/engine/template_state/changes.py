"""Describes the effect of each container method as JSON, and repeats it in another process.

Where possible, a change contains what was added or removed, not the new content of the container. So the changes of
two nodes that run at the same time are combined, as in dbt's threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2.utils import Namespace

from workers.engine.template_state.values import (
    References,
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
"""Methods that change a dict, list or set."""

SET = "set"
"""Method name for ``{% set namespace.name = value %}``, with the arguments name and value."""


def is_there(container: Any, method: str, args: list[Any]) -> bool:
    """Whether the key argument of a dict's `setdefault` or `pop` is in the dict."""
    return isinstance(container, dict) and method in _NO_CHANGE_IF and bool(args) and args[0] in container


def change_of(
    container: Any,
    method: str,
    refs: References,
    args: list[Any],
    kwargs: dict[str, Any],
    returned: Any,
    *,
    was_there: bool,
) -> list[Any] | None:
    """Describe what a method call changed in a container; None if nothing.

    Args:
        args, kwargs, returned: arguments and return value of the call.
        was_there: result of `is_there` before the call.
    """
    if method in _NO_CHANGE_IF and isinstance(container, dict) and was_there is _NO_CHANGE_IF[method]:
        return None
    describe = _DESCRIBE.get((type_of(container), method))
    if describe is None:
        return ["contents", encode_all(container, refs)]
    return describe(refs, returned, *args, **kwargs)


def repeat(container: Any, method: str, refs: References, *written: Any) -> None:
    """Make a change that `change_of` described."""
    _REPEAT[method](container, refs, *written)


_NO_CHANGE_IF = {"setdefault": True, "pop": False}
"""Methods of a dict that change nothing if the key was there (True) or was not there (False)."""


def _with_value(name: str) -> Callable[..., list[Any]]:
    return lambda refs, _, value: [name, encode(value, refs)]


_DESCRIBE: dict[tuple[type, str], Callable[..., list[Any]]] = {
    (dict, "clear"): lambda *_: ["clear"],
    (dict, "update"): lambda refs, _, *args, **kwargs: ["update", pairs(dict(*args, **kwargs), refs)],
    (dict, "setdefault"): lambda refs, returned, key, *_: ["update", pairs({key: returned}, refs)],
    (dict, "pop"): lambda refs, _, key, *__: ["delete", encode(key, refs)],
    (dict, "popitem"): lambda refs, returned: ["delete", encode(returned[0], refs)],
    (list, "clear"): lambda *_: ["clear"],
    (list, "append"): _with_value("append"),
    (list, "remove"): _with_value("remove"),
    (list, "extend"): lambda refs, _, values: ["extend", encode_all(values, refs)],
    (list, "insert"): lambda refs, _, place, value: ["insert", place, encode(value, refs)],
    (list, "pop"): lambda _, __, *place: ["pop", *place],
    (set, "clear"): lambda *_: ["clear"],
    (set, "add"): _with_value("add"),
    (set, "discard"): _with_value("discard"),
    (set, "remove"): _with_value("discard"),
    (set, "pop"): lambda refs, returned: ["discard", encode(returned, refs)],
    (set, "update"): lambda refs, _, *args: [
        "add",
        *(encode(value, refs) for each in args for value in each),
    ],
    (Namespace, SET): lambda refs, _, name, value: ["update", pairs({name: value}, refs)],
}


def _update(container: Any, refs: References, written: Any) -> None:
    for key, value in decode_pairs(written, refs).items():
        container[key] = value


_REPEAT: dict[str, Callable[..., Any]] = {
    "clear": lambda container, _: container.clear(),
    "update": _update,
    "delete": lambda container, refs, key: container.pop(decode(key, refs), None),
    "append": lambda container, refs, value: container.append(decode(value, refs)),
    "remove": lambda container, refs, value: container.remove(decode(value, refs)),
    "extend": lambda container, refs, values: container.extend(decode_all(values, refs)),
    "insert": lambda container, refs, place, value: container.insert(place, decode(value, refs)),
    "pop": lambda container, _, *place: container.pop(*place),
    "add": lambda container, refs, *values: container.update(decode_all(values, refs)),
    "discard": lambda container, refs, value: container.discard(decode(value, refs)),
    "contents": lambda container, refs, values: refill(container, decode_all(values, refs)),
}
