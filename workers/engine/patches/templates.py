"""Compiled templates, and vars that need no rendering."""

from __future__ import annotations

import functools
from typing import Any

import dbt_common.clients.jinja
from dbt.clients.jinja import _HAS_RENDER_CHARS_PAT
from dbt.context.base import Var
from dbt_common.clients.jinja import MacroFuzzEnvironment, get_environment

_compile_of_dbt = MacroFuzzEnvironment.compile
_compiled: dict[tuple[type, str], Any] = {}
_COMPILED_AT_MOST = 4000


def compile_template(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """A text as Python code: a model's is rendered by each run, and again for each var set that is parsed.
    Names, filters and what is undefined are looked up when the code is executed."""
    if args or kwargs or not isinstance(source, str) or dbt_common.clients.jinja.MACRO_DEBUGGING:
        return _compile_of_dbt(self, source, *args, **kwargs)
    key = type(self), source
    code = _compiled.get(key)
    if code is None:
        if len(_compiled) >= _COMPILED_AT_MOST:
            _compiled.clear()
        code = _compiled[key] = _compile_of_dbt(self, source)
    return code


_rendered_var_of_dbt = Var.get_rendered_var


def rendered_var(self: Var, var_name: str) -> Any:
    """dbt copies the whole context to render a var's text, Jinja in it or not."""
    raw = self._merged[var_name]
    return (
        raw
        if type(raw) is str and not _HAS_RENDER_CHARS_PAT.search(raw)
        else _rendered_var_of_dbt(self, var_name)
    )


# dbt.adapters.clients.jinja.QueryStringGenerator makes one for each invocation
environment = functools.cache(get_environment)
