"""Intercepts the calls with which Jinja templates change a dict, a list, a set or a namespace.

dbt renders with Jinja's sandbox, whose environment executes every call of a template. A template can change a
container only by such a call, or by ``{% set namespace.name = value %}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinMethodType, MethodDescriptorType
from typing import Any

from dbt_common.clients.jinja import MacroFuzzEnvironment
from jinja2.utils import Namespace

from workers.engine.template_state.changes import CHANGING, SET
from workers.engine.template_state.state import TemplateState


class _Executing:
    """The template state of the run whose step this process is executing."""

    state: TemplateState | None = None


def note_graph_use() -> None:
    """Record that a template of the executing step uses `graph`."""
    if _Executing.state is not None:
        _Executing.state.graph_used = True


def enter(state: TemplateState) -> None:
    """Record changes of templates for this run from now on, and show the changes it made so far."""
    leave()
    _Executing.state = state
    state.show()


def leave() -> None:
    """Stop recording, and restore the parsed project to its parsed state."""
    if _Executing.state is not None:
        _Executing.state.hide()
        _Executing.state = None


@contextmanager
def as_parsed() -> Iterator[None]:
    """Temporarily restore the parsed project to its parsed state."""
    if _Executing.state is None:
        yield
        return
    with _Executing.state.hidden():
        yield


_jinja_call: Callable[..., Any] = MacroFuzzEnvironment.call


def call(self: Any, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function of a template; record the change if the call changes a container."""
    kind = type(called)
    if (
        (kind is BuiltinMethodType or kind is MethodDescriptorType)
        and called.__name__ in CHANGING
        and _Executing.state is not None
    ):
        for name in _ADDED_BY_JINJA:
            kwargs.pop(name, None)
        if kind is BuiltinMethodType and isinstance(called.__self__, (dict, list, set)):
            return _Executing.state.record(called.__self__, called.__name__, called, args, kwargs)
        if kind is MethodDescriptorType and args and isinstance(args[0], (dict, list, set)):
            bound = called.__get__(args[0])  # `dict.update(graph, …)`
            return _Executing.state.record(args[0], called.__name__, bound, args[1:], kwargs)
    return _jinja_call(self, context, called, *args, **kwargs)


_ADDED_BY_JINJA = ("_loop_vars", "_block_vars")
"""Arguments that compiled templates add to calls within loops and blocks; jinja2.runtime.Context.call removes them."""


_jinja_setitem = Namespace.__setitem__


def set_attribute(self: Namespace, name: str, value: Any) -> None:
    """Set an attribute of a Jinja namespace, recorded where the run keeps the namespace."""
    if _Executing.state is not None and _Executing.state.knows(self):
        _Executing.state.record(self, SET, lambda *both: _jinja_setitem(self, *both), (name, value), {})
    else:
        _jinja_setitem(self, name, value)


def install() -> None:
    """Make Jinja record the changes of templates (`patches.catalog.NEEDED`)."""
    MacroFuzzEnvironment.call = call  # type: ignore[method-assign]
    Namespace.__setitem__ = set_attribute  # type: ignore[method-assign]
