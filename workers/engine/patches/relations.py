"""Adds relations to dbt's cache, and finds them there."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from dbt.adapters.base import BaseAdapter, BaseRelation
from dbt.adapters.cache import RelationsCache, _CachedRelation
from dbt.adapters.contracts.relation import ComponentName
from dbt.flags import get_flags

from workers.engine.patches.cached_relations import QUOTE_CHARACTERS

_dbt_add = RelationsCache.add
_dbt_get_cache_schemas = BaseAdapter._get_cache_schemas
_dbt_make_match = BaseAdapter._make_match


def add(self: RelationsCache, relation: Any) -> None:
    """Add a relation without the event that only ``--log-cache-events`` shows."""
    if getattr(get_flags(), "LOG_CACHE_EVENTS", True):
        _dbt_add(self, relation)  # type: ignore[no-untyped-call]
        return
    with self.lock:
        self._setdefault(_CachedRelation(relation))


def get_cache_schemas(self: BaseAdapter, relation_configs: Iterable[Any]) -> set[BaseRelation]:
    """Ask dbt for the schemas of one node of each kind; dbt creates a relation for each node of the project."""
    if self.type() not in _PLAIN_RELATIONS:
        return _dbt_get_cache_schemas(self, relation_configs)
    kinds: dict[Any, Any] = {}
    for node in relation_configs:
        # what create_from reads, without the identifier, which is removed afterwards
        catalog = node.catalog_name if hasattr(node, "catalog_name") else node.config.get("catalog", None)
        quoting = tuple(node.quoting_dict.items())
        kinds.setdefault((node.database, node.schema, quoting, catalog, node.resource_type), node)
    return _dbt_get_cache_schemas(self, kinds.values())


_PLAIN_RELATIONS = frozenset({"duckdb", "postgres"})
"""Adapters that read nothing else of a node for its relation (no external tables, no catalogs)."""


def make_match(
    self: BaseAdapter, relations_list: list[BaseRelation], database: str, schema: str, identifier: str
) -> list[BaseRelation]:
    """Let dbt compare only relations whose identifier is equal but for case and quotes: others cannot match
    (dbt.adapters.base.relation.BaseRelation.matches)."""
    if identifier and self.Relation.matches is BaseRelation.matches:
        wanted = self._make_match_kwargs(database, schema, identifier)["identifier"]
        relations_list = [each for each in relations_list if _has_identifier(each, wanted)]
    return _dbt_make_match(self, relations_list, database, schema, identifier)


def _has_identifier(relation: BaseRelation, identifier: str) -> bool:
    mark = relation.quote_character
    return str(relation.path.get_lowered_part(_IDENTIFIER)).strip(mark) == identifier.lower().strip(mark)


_dbt_get_relation = BaseAdapter.get_relation


@functools.wraps(_dbt_get_relation)
def get_relation(self: BaseAdapter, database: Any, schema: Any, identifier: Any) -> Any:
    """Find a relation in the cache's index; dbt lists all relations of the schema."""
    only_identifier = getattr(self.cache, "only_identifier", None)
    if (
        only_identifier is None
        or type(self).list_relations is not _dbt_list_relations
        or not (
            isinstance(identifier, str) and isinstance(schema, str) and identifier.strip(QUOTE_CHARACTERS)
        )
        or self.Relation.quote_character not in QUOTE_CHARACTERS
        or (database, schema) not in self.cache
    ):
        return _dbt_get_relation(self, database, schema, identifier)
    with only_identifier(identifier):
        return _dbt_get_relation(self, database, schema, identifier)


_dbt_list_relations = BaseAdapter.list_relations
_IDENTIFIER = ComponentName.Identifier
