"""Keeps compiled templates, and renders no var without Jinja."""

from __future__ import annotations

import functools
from typing import Any

import dbt_common.clients.jinja
from dbt.clients.jinja import _HAS_RENDER_CHARS_PAT
from dbt.context.base import Var
from dbt_common.clients.jinja import MacroFuzzEnvironment, get_environment

_dbt_compile = MacroFuzzEnvironment.compile
_compiled: dict[tuple[type, str], Any] = {}
_COMPILED_AT_MOST = 4000


def compile_template(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Compile a template once: a model's template is rendered in each run and for each var set that is parsed.

    Names and filters are looked up when the compiled code is executed, so it can be shared.
    """
    if args or kwargs or not isinstance(source, str) or dbt_common.clients.jinja.MACRO_DEBUGGING:
        return _dbt_compile(self, source, *args, **kwargs)
    key = type(self), source
    code = _compiled.get(key)
    if code is None:
        if len(_compiled) >= _COMPILED_AT_MOST:
            _compiled.clear()
        code = _compiled[key] = _dbt_compile(self, source)
    return code


_dbt_get_rendered_var = Var.get_rendered_var


def rendered_var(self: Var, var_name: str) -> Any:
    """Return a text without Jinja as it is; dbt copies the whole context to render it."""
    raw = self._merged[var_name]
    return (
        raw
        if type(raw) is str and not _HAS_RENDER_CHARS_PAT.search(raw)
        else _dbt_get_rendered_var(self, var_name)
    )


# dbt.adapters.clients.jinja.QueryStringGenerator creates one for each invocation
environment = functools.cache(get_environment)
