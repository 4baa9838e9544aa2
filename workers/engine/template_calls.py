"""Where Jinja calls a method that changes a dict, a list, a set or a namespace.

dbt renders with Jinja's sandbox, which hands every call of a template to its environment, and a template has no other
way to change a container: it cannot assign to an entry or an attribute but of a namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinMethodType, MethodDescriptorType
from typing import Any

from dbt_common.clients.jinja import MacroFuzzEnvironment
from jinja2.utils import Namespace

from workers.engine.template_state import TemplateState

CHANGING = frozenset(
    {"add", "append", "clear", "difference_update", "discard", "extend", "insert", "intersection_update", "pop",
     "popitem", "remove", "reverse", "setdefault", "sort", "symmetric_difference_update", "update"}
)  # fmt: skip

_current: TemplateState | None = None


def looked_at_graph() -> None:
    """Note that a template of the executing step named `graph`."""
    if _current is not None:
        _current.looked = True


def enter(state: TemplateState) -> None:
    """From now on templates belong to a step of this run."""
    global _current
    leave()
    _current = state
    state.show()


def leave() -> None:
    """From now on no template belongs to a run, and the parsed project is as it was parsed."""
    global _current
    if _current is not None:
        _current.hide()
        _current = None


@contextmanager
def as_parsed() -> Iterator[None]:
    """Within, the parsed project is as it was parsed."""
    if _current is None:
        yield
        return
    with _current.hidden():
        yield


_call_of_jinja: Callable[..., Any] = MacroFuzzEnvironment.call


def _call(self: Any, context: Any, called: Any, /, *args: Any, **more: Any) -> Any:
    kind = type(called)
    if (
        (kind is BuiltinMethodType or kind is MethodDescriptorType)
        and called.__name__ in CHANGING
        and _current is not None
    ):
        if kind is BuiltinMethodType and isinstance(called.__self__, (dict, list, set)):
            return _current.record(called.__self__, called.__name__, called, args, more)
        if kind is MethodDescriptorType and args and isinstance(args[0], (dict, list, set)):
            bound = called.__get__(args[0])  # `dict.update(graph, …)`
            return _current.record(args[0], called.__name__, bound, args[1:], more)
    return _call_of_jinja(self, context, called, *args, **more)


_set_of_jinja = Namespace.__setitem__


def _set(self: Namespace, name: str, value: Any) -> None:
    if _current is not None and _current.knows(self):
        _current.record(self, "set", lambda *both: _set_of_jinja(self, *both), (name, value), {})
    else:
        _set_of_jinja(self, name, value)


MacroFuzzEnvironment.call = _call  # type: ignore[method-assign]
Namespace.__setitem__ = _set  # type: ignore[method-assign]
