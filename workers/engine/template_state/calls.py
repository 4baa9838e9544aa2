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

from workers.engine.template_state.changes import CHANGING, SET
from workers.engine.template_state.state import TemplateState


class _Executing:
    """The run to which templates belong now. dbt executes one step at a time in a process."""

    state: TemplateState | None = None


def note_graph_use() -> None:
    """Note that a template of the executing step named `graph`."""
    if _Executing.state is not None:
        _Executing.state.graph_used = True


def enter(state: TemplateState) -> None:
    """From now on templates belong to a step of this run."""
    leave()
    _Executing.state = state
    state.show()


def leave() -> None:
    """From now on no template belongs to a run, and the parsed project is as it was parsed."""
    if _Executing.state is not None:
        _Executing.state.hide()
        _Executing.state = None


@contextmanager
def as_parsed() -> Iterator[None]:
    """Within, the parsed project is as it was parsed."""
    if _Executing.state is None:
        yield
        return
    with _Executing.state.hidden():
        yield


_call_of_jinja: Callable[..., Any] = MacroFuzzEnvironment.call


def call(self: Any, context: Any, called: Any, /, *args: Any, **more: Any) -> Any:
    """Call a function of a template, recorded where it changes a container."""
    kind = type(called)
    if (
        (kind is BuiltinMethodType or kind is MethodDescriptorType)
        and called.__name__ in CHANGING
        and _Executing.state is not None
    ):
        for own in _OF_JINJA:
            more.pop(own, None)
        if kind is BuiltinMethodType and isinstance(called.__self__, (dict, list, set)):
            return _Executing.state.record(called.__self__, called.__name__, called, args, more)
        if kind is MethodDescriptorType and args and isinstance(args[0], (dict, list, set)):
            bound = called.__get__(args[0])  # `dict.update(graph, …)`
            return _Executing.state.record(args[0], called.__name__, bound, args[1:], more)
    return _call_of_jinja(self, context, called, *args, **more)


_OF_JINJA = ("_loop_vars", "_block_vars")
"""What compiled templates pass with a call within a loop or block, and jinja2.runtime.Context.call takes out again."""


_set_of_jinja = Namespace.__setitem__


def set_attribute(self: Namespace, name: str, value: Any) -> None:
    """Set an attribute of a Jinja namespace, recorded where the run keeps the namespace."""
    if _Executing.state is not None and _Executing.state.knows(self):
        _Executing.state.record(self, SET, lambda *both: _set_of_jinja(self, *both), (name, value), {})
    else:
        _set_of_jinja(self, name, value)


def install() -> None:
    """Make Jinja record the changes of templates (`patches.catalog.NEEDED`)."""
    MacroFuzzEnvironment.call = call  # type: ignore[method-assign]
    Namespace.__setitem__ = set_attribute  # type: ignore[method-assign]
