"""What dbt and its libraries work out anew each time, though it comes out the same: worked out once here.

Importing this module is what puts it in place, in a process of a worker. Each function gives what the one
that it stands for gives, errors included.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import threading
from collections.abc import Iterable
from typing import Any

import agate  # type: ignore[import-untyped]
import dbt_common.clients.jinja
import dbt_common.exceptions.base
import parsedatetime  # type: ignore[import-untyped]
from dbt.adapters.base import BaseAdapter, BaseRelation
from dbt.adapters.cache import RelationsCache, _CachedRelation
from dbt.adapters.clients import jinja as adapter_jinja
from dbt.adapters.contracts.relation import ComponentName
from dbt.clients.jinja import _HAS_RENDER_CHARS_PAT
from dbt.context.base import Var
from dbt.flags import get_flags
from dbt.graph import Graph, UniqueId
from dbt_common.clients import agate_helper
from dbt_common.clients.jinja import MacroFuzzEnvironment, get_environment
from dbt_common.constants import SECRET_ENV_PREFIX
from dbt_common.events.base_types import BaseEvent

from workers.engine.cache import MARKS

# -- events ----------------------------------------------------------------------------------------

_event_of_dbt = BaseEvent.__init__


def _make_event(self: BaseEvent, *args: Any, **kwargs: Any) -> None:
    """An event from its fields, by protobuf's own constructor (some 40 times as fast) where that cannot
    differ from the reading of JSON that dbt takes the way by."""
    for name in ("base_msg", "msg"):
        if name in kwargs:
            kwargs[name] = str(kwargs[name])
    made = None
    if not args and _is_plain(kwargs):
        # what it does not take, dbt may, or it says what is wrong
        with contextlib.suppress(Exception):
            made = getattr(self.PROTO_TYPES_MODULE, type(self).__name__)(**kwargs)
    if made is None:
        _event_of_dbt(self, *args, **kwargs)
    else:
        self.pb_msg = made


def _is_plain(value: Any) -> bool:
    """Values of which both make the same: no bool (an int to one of them), no dates, no huge numbers."""
    kind = type(value)
    if kind is str or value is None:
        return True
    if kind is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if kind is list:
        return all(type(each) is str for each in value)
    if kind is int:
        return bool(-(2**31) <= value < 2**31)
    return kind is float and bool(math.isfinite(value)) and -1e30 < value < 1e30


BaseEvent.__init__ = _make_event  # type: ignore[method-assign]


# -- templates -------------------------------------------------------------------------------------

_compile_of_dbt = MacroFuzzEnvironment.compile
_compiled: dict[tuple[type, str], Any] = {}
_COMPILED_AT_MOST = 4000


def _compile(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
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


MacroFuzzEnvironment.compile = _compile  # type: ignore[method-assign]

_rendered_var_of_dbt = Var.get_rendered_var


def _rendered_var(self: Var, var_name: str) -> Any:
    """dbt copies the whole context to render a var's text, Jinja in it or not."""
    raw = self._merged[var_name]
    return (
        raw
        if type(raw) is str and not _HAS_RENDER_CHARS_PAT.search(raw)
        else _rendered_var_of_dbt(self, var_name)
    )


Var.get_rendered_var = _rendered_var  # type: ignore[method-assign]


# -- answers without rows --------------------------------------------------------------------------


@functools.cache
def _no_rows() -> agate.Table:
    return agate.Table(rows=[])


def _empty_table() -> agate.Table:
    """dbt makes one of each statement that it wants no rows of, and agate all of its type tests for each."""
    return copy.copy(_no_rows())


agate_helper.empty_table = _empty_table


# -- the query comment -----------------------------------------------------------------------------


# dbt.adapters.clients.jinja.QueryStringGenerator makes one for each invocation
adapter_jinja.get_environment = functools.cache(get_environment)  # type: ignore[assignment]


# -- dates -----------------------------------------------------------------------------------------

_local = threading.local()
_constants_of_library = parsedatetime.Constants


def _constants(*args: Any, **kwargs: Any) -> Any:
    """agate makes them for each type of each table that it reads, and dbt a table of each answer."""
    if args or set(kwargs) - {"localeID"}:
        return _constants_of_library(*args, **kwargs)
    known = _local.__dict__.setdefault("constants", {})
    locale = kwargs.get("localeID")
    if locale not in known:
        known[locale] = _constants_of_library(localeID=locale)
    return known[locale]


parsedatetime.Constants = _constants


# -- secrets ---------------------------------------------------------------------------------------


def _env_secrets() -> list[str]:
    """dbt looks through the environment for each of its exceptions, and throws a dozen to find a macro."""
    environ: Any = os.environ
    if _SECRET not in _BETWEEN.join(environ._data):
        return []
    keys: list[Any] = [key for key in environ._data if key.startswith(_SECRET)]
    return [value for key in keys if (value := os.environ[os.environ.decodekey(key)]).strip()]


_SECRET = os.environ.encodekey(SECRET_ENV_PREFIX)
_BETWEEN = _SECRET[:0]
dbt_common.exceptions.base.env_secrets = _env_secrets


# -- relations -------------------------------------------------------------------------------------

_add_of_dbt = RelationsCache.add
_schemas_of_dbt = BaseAdapter._get_cache_schemas
_match_of_dbt = BaseAdapter._make_match


def _add(self: RelationsCache, relation: Any) -> None:
    """dbt makes an event of each relation of a schema, though only ``--log-cache-events`` shows them."""
    if getattr(get_flags(), "LOG_CACHE_EVENTS", True):
        _add_of_dbt(self, relation)  # type: ignore[no-untyped-call]
        return
    with self.lock:
        self._setdefault(_CachedRelation(relation))


RelationsCache.add = _add  # type: ignore[method-assign]


def _cache_schemas(self: BaseAdapter, relation_configs: Iterable[Any]) -> set[BaseRelation]:
    """dbt makes a relation of each node of the project to learn its schema; one of each kind will do."""
    if self.type() not in _PLAIN_RELATIONS:
        return _schemas_of_dbt(self, relation_configs)
    kinds: dict[Any, Any] = {}
    for node in relation_configs:
        # all that create_from looks at but the identifier, which is left out afterwards
        catalog = node.catalog_name if hasattr(node, "catalog_name") else node.config.get("catalog", None)
        quoting = tuple(node.quoting_dict.items())
        kinds.setdefault((node.database, node.schema, quoting, catalog, node.resource_type), node)
    return _schemas_of_dbt(self, kinds.values())


_PLAIN_RELATIONS = frozenset({"duckdb", "postgres"})
"""Adapters whose relation is made of nothing else of a node (no external tables, no catalogs)."""


def _make_match(
    self: BaseAdapter, relations_list: list[BaseRelation], database: str, schema: str, identifier: str
) -> list[BaseRelation]:
    """dbt asks each relation of a schema whether it is the one; only what is spelled like it can be
    (dbt.adapters.base.relation.BaseRelation.matches)."""
    if identifier and self.Relation.matches is BaseRelation.matches:
        wanted = self._make_match_kwargs(database, schema, identifier)["identifier"]
        relations_list = [each for each in relations_list if _is_spelled(each, wanted)]
    return _match_of_dbt(self, relations_list, database, schema, identifier)


def _is_spelled(relation: BaseRelation, identifier: str) -> bool:
    mark = relation.quote_character
    return str(relation.path.get_lowered_part(_IDENTIFIER)).strip(mark) == identifier.lower().strip(mark)


_relation_of_dbt = BaseAdapter.get_relation


@functools.wraps(_relation_of_dbt)
def _get_relation(self: BaseAdapter, database: Any, schema: Any, identifier: Any) -> Any:
    """dbt lists all relations of a schema to find one of them; the cache lists those that are spelled like it."""
    narrowed = getattr(self.cache, "narrowed", None)
    if (
        narrowed is None
        or type(self).list_relations is not _relations_of_dbt
        or not (isinstance(identifier, str) and isinstance(schema, str) and identifier.strip(MARKS))
        or self.Relation.quote_character not in MARKS
        or (database, schema) not in self.cache
    ):
        return _relation_of_dbt(self, database, schema, identifier)
    with narrowed(identifier):
        return _relation_of_dbt(self, database, schema, identifier)


_relations_of_dbt = BaseAdapter.list_relations
_IDENTIFIER = ComponentName.Identifier
BaseAdapter.get_relation = _get_relation  # type: ignore[method-assign]
BaseAdapter._get_cache_schemas = _cache_schemas  # type: ignore[method-assign]
BaseAdapter._make_match = _make_match  # type: ignore[method-assign]


# -- the graph -------------------------------------------------------------------------------------

_subset_of_dbt = Graph.get_subset_graph


def _subset(self: Graph, selected: Iterable[UniqueId]) -> Graph:
    """dbt takes the unselected nodes out of a copy of the whole graph, one after another; of a single
    node nothing else is left."""
    only = set(selected)
    if len(only) == 1 and only <= self.graph.nodes.keys():
        return Graph(self.graph.__class__(self.graph.subgraph(only)))
    return _subset_of_dbt(self, only)


Graph.get_subset_graph = _subset  # type: ignore[method-assign]
