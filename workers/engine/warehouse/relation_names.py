"""Which relation a node writes, as a name that every run gives it: what the ledger locks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, Final

from dbt.adapters.base.relation import BaseRelation
from dbt.adapters.contracts.relation import ComponentName
from dbt.config.runtime import RuntimeConfig

from workers.contract.errors import DbtUsageError

META: Final = "dbt_relay_lock"
_HASH_BYTES: Final = 12
_FOLD_TO_UPPER: Final = frozenset({"snowflake", "oracle"})
"""Adapters whose warehouse reads an unquoted name as upper case; the others read it as lower case, or do not
tell the cases apart at all."""


class RelationLocks:
    """Names of what a run's nodes write.

    A name is a hash of the warehouse and of the relation as dbt would render it: parts that dbt quotes
    (``quoting:``) count letter by letter, others as the warehouse folds them. The warehouse is its adapter
    type, what that adapter calls itself by (``Credentials.unique_field``: Postgres' host, Snowflake's
    account, …) and its port; the database is part of the relation.
    """

    def __init__(self, config: RuntimeConfig, relation: type[BaseRelation]) -> None:
        self._config, self._relation = config, relation
        credentials: Any = config.credentials
        self._warehouse = (credentials.type, _identity(credentials), str(getattr(credentials, "port", "")))
        self._fold: Callable[[str], str] = str.upper if credentials.type in _FOLD_TO_UPPER else str.lower

    def name(self, node: Any) -> str:
        """16 characters that stand for the relation that `node` writes; empty where it writes none.

        Models that are not ephemeral, seeds, snapshots, and tests that store their failures write one
        (dbt.contracts.graph.nodes, ``is_relational``), unless their ``meta`` says ``dbt_relay_lock: none``.

        Raises:
            DbtUsageError: ``meta`` says something else.
        """
        if not getattr(node, "is_relational", False) or node.is_ephemeral_model:
            return ""
        wanted = getattr(node.config, "meta", {}).get(META)
        if wanted is not None:
            if str(wanted).lower() != "none":
                raise DbtUsageError(
                    f"{node.unique_id} ({node.original_file_path}): meta says `{META}: {wanted}`; only "
                    f"`{META}: none` is known, for a node that other runs may write at the same time"
                )
            return ""
        text = "\0".join((*self._warehouse, *self.parts(node)))
        digest = hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def parts(self, node: Any) -> tuple[str, ...]:
        """Database, schema and identifier of a node's relation, as the warehouse tells them apart."""
        relation = self._relation.create_from(self._config, node)
        named = (
            (key, relation.path.get_part(key))
            for key in ComponentName
            if relation.include_policy.get_part(key)
        )
        return tuple(
            part if relation.quote_policy.get_part(key) else self._fold(part)
            for key, part in named
            if part is not None
        )


def _identity(credentials: Any) -> str:
    try:
        return str(credentials.unique_field).lower()
    except NotImplementedError:
        return ""
