"""Lock names: equal for the same table in all runs, different for different tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dbt.adapters.base.relation import BaseRelation

from workers.contract.errors import DbtUsageError
from workers.engine.warehouse.relation_names import RelationLocks


class Credentials(SimpleNamespace):
    @property
    def unique_field(self) -> str:
        if self.host is None:
            raise NotImplementedError
        return str(self.host)


def locks(quoting: dict[str, bool] | None = None, **credentials: Any) -> RelationLocks:
    given = {"type": "postgres", "host": "db.example", "port": 5432, **credentials}
    config: Any = SimpleNamespace(credentials=Credentials(**given), quoting=quoting or {})
    return RelationLocks(config, BaseRelation)


def node(identifier: str = "orders", **given: Any) -> Any:
    fields: dict[str, Any] = {
        "database": "shop", "schema": "public", "identifier": identifier, "quoting_dict": {},
        "is_relational": True, "is_ephemeral_model": False, "unique_id": f"model.p.{identifier}",
        "original_file_path": f"models/{identifier}.sql", "catalog_name": None,
        "config": SimpleNamespace(meta={}),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **given})


def test_same_table_has_the_same_short_name() -> None:
    assert locks().name(node()) == locks(host="DB.example").name(node())
    assert len(locks().name(node())) == 16


@pytest.mark.parametrize(
    "other",
    [
        locks(host="other.example").name(node()),
        locks(port=5433).name(node()),
        locks(type="redshift").name(node()),
        locks(host=None).name(node()),
        locks().name(node("customers")),
        locks().name(node(schema="private")),
        locks().name(node(database="other")),
    ],
)
def test_different_tables_have_different_names(other: str) -> None:
    assert other != locks().name(node())


def test_quoted_names_are_case_sensitive() -> None:
    quoted = {"database": True, "schema": True, "identifier": True}
    assert locks(quoted).name(node("Orders")) != locks(quoted).name(node("orders"))


@pytest.mark.parametrize(("kind", "stored"), [("postgres", "orders"), ("snowflake", "ORDERS")])
def test_unquoted_names_are_folded_as_by_the_warehouse(kind: str, stored: str) -> None:
    unquoted = {"database": False, "schema": False, "identifier": False}
    names = {locks(unquoted, type=kind).name(node(name)) for name in ("orders", "Orders", "ORDERS")}
    assert len(names) == 1
    by_identifier = {"database": False, "schema": False, "identifier": True}
    assert {locks(by_identifier, type=kind).name(node(stored))} == names


def test_node_without_a_relation_has_no_lock_name() -> None:
    assert locks().name(node(is_relational=False)) == ""  # a test that stores no failures
    assert locks().name(node(is_ephemeral_model=True)) == ""
    assert locks().name(SimpleNamespace(unique_id="unit_test.p.x")) == ""


def test_meta_turns_the_lock_of_a_node_off() -> None:
    assert locks().name(node(config=SimpleNamespace(meta={"dbt_relay_lock": "none"}))) == ""
    assert locks().name(node(config=SimpleNamespace(meta={"owner": "x"}))) == locks().name(node())
    with pytest.raises(DbtUsageError, match=r"model\.p\.orders \(models/orders\.sql\).*dbt_relay_lock: off"):
        locks().name(node(config=SimpleNamespace(meta={"dbt_relay_lock": "off"})))
