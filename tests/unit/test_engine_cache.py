"""The relation cache of a run, replicated between processes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.adapters.base.relation import BaseRelation
from dbt.adapters.cache import RelationsCache
from dbt.adapters.contracts.relation import RelationType
from dbt.deprecations import active_deprecations

from workers.engine.execution.relation_cache import CacheRecorder


@pytest.fixture(autouse=True)
def no_deprecations() -> Iterator[None]:
    active_deprecations.clear()
    yield
    active_deprecations.clear()


def process() -> CacheRecorder:
    """A recorder with its own adapter, as each process of a run has one."""
    adapter: Any = SimpleNamespace(cache=RelationsCache(), Relation=BaseRelation)
    recorder = CacheRecorder(adapter)
    recorder.use()
    return recorder


def relation(name: str, schema: str = "s", kind: RelationType = RelationType.Table) -> BaseRelation:
    return BaseRelation.create(database="d", schema=schema, identifier=name, type=kind)


def names(recorder: CacheRecorder) -> list[str]:
    return sorted(str(each.identifier) for each in recorder.cache.get_relations("d", "s"))


def replicate(source: CacheRecorder, *others: CacheRecorder) -> None:
    changes = [change.encode() for change in source.take_changes()]
    for recorder in (source, *others):
        recorder.replay(changes)


def test_adapter_uses_the_recorders_cache() -> None:
    recorder = process()
    recorder.adapter.cache.add(relation("a"))
    assert len(recorder.take_changes()) == 1


def test_changes_of_one_process_are_applied_in_the_other() -> None:
    one, other = process(), process()
    for recorder in (one, other):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a"))
    one.cache.add(relation("b", kind=RelationType.View))
    replicate(one, other)
    assert names(one) == names(other) == ["a", "b"]
    other.cache.drop(relation("a"))
    replicate(other, one)
    assert names(one) == names(other) == ["b"]
    assert other.cache.get_relations("d", "s")[0].type == RelationType.View


def test_replayed_change_is_not_recorded_again() -> None:
    one, other = process(), process()
    one.cache.add(relation("a"))
    replicate(one, other)
    assert one.take_changes() == other.take_changes() == ()
    assert one.position == other.position == 1


def test_rename_is_replayed_with_and_without_the_old_name_in_the_cache() -> None:
    one, with_old_name, without_old_name = process(), process(), process()
    for recorder in (one, with_old_name, without_old_name):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a__dbt_tmp"))
    with_old_name.cache.add(relation("a__dbt_tmp"))
    one.take_changes()
    with_old_name.take_changes()
    one.cache.rename(relation("a__dbt_tmp"), relation("a"))
    replicate(one, with_old_name, without_old_name)
    assert names(one) == names(with_old_name) == names(without_old_name) == ["a"]


def test_dropping_a_relation_drops_its_dependents_in_other_processes() -> None:
    one, other = process(), process()
    for recorder in (one, other):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("table"))
    one.cache.add(relation("view", kind=RelationType.View))
    one.cache.add_link(relation("table"), relation("view"))
    replicate(one, other)
    other.cache.drop(relation("table"))
    assert names(other) == []


def test_dropped_schema_is_dropped_in_other_processes() -> None:
    one, other = process(), process()
    one.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a"))
    replicate(one, other)
    assert ("d", "s") in other.cache
    one.cache.drop_schema("d", "s")
    replicate(one, other)
    assert ("d", "s") not in other.cache
    assert names(other) == []


def test_snapshot_replaces_relations_schemas_and_links() -> None:
    one, other = process(), process()
    one.cache.update_schemas([("d", "s"), ("d", "empty")])
    one.cache.add(relation("table"))
    one.cache.add(relation("view", kind=RelationType.View))
    one.cache.add_link(relation("table"), relation("view"))
    other.cache.add(relation("of_yesterday"))
    other.take_changes()
    snapshot = one.snapshot()
    assert one.take_changes() == (), "the snapshot contains the changes before it"
    other.replay([snapshot.encode()])
    assert names(other) == ["table", "view"]
    assert ("d", "empty") in other.cache
    other.cache.drop(relation("table"))
    assert names(other) == []


def test_snapshot_preserves_every_attribute_of_relations() -> None:
    one, other = process(), process()
    quoted = relation("Q").quote(database=False, identifier=True)
    nowhere = BaseRelation.create(schema="s", identifier="nowhere")
    relations = [relation("a"), relation("v", kind=RelationType.View), quoted, relation("b"), nowhere,
            *(relation(f"k{each}").replace(catalog=f"c{each}") for each in range(20)), relation("z")]  # fmt: skip
    for each in relations:
        one.cache.add(each)
    other.replay([one.snapshot().encode()])

    def plain(recorder: CacheRecorder) -> dict[str, Any]:
        cached = (each.inner for each in recorder.cache.relations.values())
        return {each.identifier: (type(each), each.to_dict(), each.render()) for each in cached}

    assert plain(other) == plain(one)
    assert len(plain(one)) == len(relations)


def test_changes_stored_after_the_warehouse_query_survive_the_snapshot() -> None:
    retrying, concurrent, third = process(), process(), process()
    for recorder in (retrying, concurrent, third):
        recorder.cache.update_schemas([("d", "s")])
        recorder.take_changes()
    snapshot = retrying.snapshot()  # the warehouse was queried; a long node follows
    concurrent.cache.add(relation("made_concurrently"))
    (made,) = concurrent.take_changes()
    for recorder in (retrying, concurrent, third):
        recorder.replay([made.encode()])
        recorder.replay([snapshot.encode()])
        assert names(recorder) == ["made_concurrently"]
        assert recorder.position == 2


def test_snapshot_taken_between_renames_of_a_node_converges() -> None:
    replaced, old, new = relation("a"), relation("a__dbt_backup"), relation("a__dbt_tmp")
    concurrent, retrying, third = process(), process(), process()
    for recorder in (concurrent, retrying, third):
        recorder.cache.update_schemas([("d", "s")])
        recorder.cache.add(replaced)
        recorder.take_changes()
    concurrent.cache.add(new)
    concurrent.cache.rename(replaced, old)
    concurrent.cache.rename(new, replaced)
    retrying.cache.add(old)  # as the warehouse shows it: renames committed, backup not dropped yet
    snapshot = retrying.snapshot()
    concurrent.cache.drop(old)
    changes = [change.encode() for change in concurrent.take_changes()]
    third.replay([snapshot.encode(), *changes])
    retrying.replay([snapshot.encode(), *changes])
    concurrent.replay([snapshot.encode(), *changes])
    assert names(third) == names(retrying) == names(concurrent) == ["a"]


def test_new_recorder_on_the_same_adapter_records_separately() -> None:
    first = process()
    first.cache.add(relation("a"))
    second = CacheRecorder(first.adapter)
    second.use()
    second.cache.add(relation("b"))
    assert len(second.take_changes()) == 1
    assert len(first.take_changes()) == 1


def test_deprecation_is_recorded_once_and_counted_in_all_processes() -> None:
    one, other = process(), process()
    one.use()
    active_deprecations["custom-key"] += 2
    changes = [change.encode() for change in one.take_changes()]
    assert len(changes) == 1
    assert one.take_changes() == ()
    one.replay(changes)
    assert one.deprecated["custom-key"] == 2
    other.use()  # as another process
    assert not active_deprecations
    other.replay(changes)
    assert active_deprecations["custom-key"] == 2
    assert other.take_changes() == ()


def test_relation_whose_type_a_macro_set_to_a_string_is_serialized() -> None:
    first, second = process(), process()
    text: Any = "view"
    first.cache.add(relation("a").replace(type=text))
    second.replay([first.snapshot().encode()])
    assert [each.type for each in second.cache.get_relations("d", "s")] == [RelationType.View]
