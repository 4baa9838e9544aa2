"""Lock names of the relations that nodes write. Every run computes the same name for the same relation."""

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
"""Adapters whose warehouse folds unquoted names to upper case. Others fold to lower case or ignore case."""


class RelationLocks:
    """Computes the lock names of the relations that a run's nodes write.

    A name is a hash of the warehouse and the relation. The warehouse is the adapter type, the adapter's
    ``Credentials.unique_field`` (Postgres: host; Snowflake: account) and the port. The relation is what dbt would
    render: quoted parts (``quoting:``) keep their case, unquoted parts are folded as the warehouse folds them.
    """

    def __init__(self, config: RuntimeConfig, relation: type[BaseRelation]) -> None:
        self._config, self._relation = config, relation
        credentials: Any = config.credentials
        self._warehouse = (credentials.type, _identity(credentials), str(getattr(credentials, "port", "")))
        self._fold: Callable[[str], str] = str.upper if credentials.type in _FOLD_TO_UPPER else str.lower

    def name(self, node: Any) -> str:
        """The lock name (16 characters) of the relation that `node` writes; empty where it writes none.

        Non-ephemeral models, seeds, snapshots, and tests that store failures write a relation
        (dbt.contracts.graph.nodes, ``is_relational``). ``meta: {dbt_relay_lock: none}`` turns the lock off.

        Raises:
            DbtUsageError: ``meta`` has another value for ``dbt_relay_lock``.
        """
        if not getattr(node, "is_relational", False) or node.is_ephemeral_model:
            return ""
        wanted = getattr(node.config, "meta", {}).get(META)
        if wanted is not None:
            if str(wanted).lower() != "none":
                raise DbtUsageError(
                    f"{node.unique_id} ({node.original_file_path}): meta has `{META}: {wanted}`; the only valid "
                    f"value is `{META}: none`, for a node that other runs may write at the same time"
                )
            return ""
        text = "\0".join((*self._warehouse, *self.parts(node)))
        digest = hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def parts(self, node: Any) -> tuple[str, ...]:
        """Database, schema and identifier of a node's relation, with the warehouse's case folding applied."""
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
