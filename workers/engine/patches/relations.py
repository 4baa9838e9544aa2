"""How relations are cached and looked up."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from dbt.adapters.base import BaseAdapter, BaseRelation
from dbt.adapters.cache import RelationsCache, _CachedRelation
from dbt.adapters.contracts.relation import ComponentName
from dbt.flags import get_flags

from workers.engine.patches.cached_relations import QUOTE_CHARACTERS

_add_of_dbt = RelationsCache.add
_schemas_of_dbt = BaseAdapter._get_cache_schemas
_match_of_dbt = BaseAdapter._make_match


def add(self: RelationsCache, relation: Any) -> None:
    """dbt makes an event of each relation of a schema, though only ``--log-cache-events`` shows them."""
    if getattr(get_flags(), "LOG_CACHE_EVENTS", True):
        _add_of_dbt(self, relation)  # type: ignore[no-untyped-call]
        return
    with self.lock:
        self._setdefault(_CachedRelation(relation))


def get_cache_schemas(self: BaseAdapter, relation_configs: Iterable[Any]) -> set[BaseRelation]:
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


def make_match(
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
def get_relation(self: BaseAdapter, database: Any, schema: Any, identifier: Any) -> Any:
    """dbt lists all relations of a schema to find one of them; the cache lists those that are spelled like it."""
    only_identifier = getattr(self.cache, "only_identifier", None)
    if (
        only_identifier is None
        or type(self).list_relations is not _relations_of_dbt
        or not (
            isinstance(identifier, str) and isinstance(schema, str) and identifier.strip(QUOTE_CHARACTERS)
        )
        or self.Relation.quote_character not in QUOTE_CHARACTERS
        or (database, schema) not in self.cache
    ):
        return _relation_of_dbt(self, database, schema, identifier)
    with only_identifier(identifier):
        return _relation_of_dbt(self, database, schema, identifier)


_relations_of_dbt = BaseAdapter.list_relations
_IDENTIFIER = ComponentName.Identifier
