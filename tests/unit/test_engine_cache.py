"""The relation cache of a run, told from process to process."""

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
    """A recorder as each process of a run has one, over an adapter of its own."""
    adapter: Any = SimpleNamespace(cache=RelationsCache(), Relation=BaseRelation)
    recorder = CacheRecorder(adapter)
    recorder.use()
    return recorder


def relation(name: str, schema: str = "s", kind: RelationType = RelationType.Table) -> BaseRelation:
    return BaseRelation.create(database="d", schema=schema, identifier=name, type=kind)


def names(recorder: CacheRecorder) -> list[str]:
    return sorted(str(each.identifier) for each in recorder.cache.get_relations("d", "s"))


def tell(teller: CacheRecorder, *listeners: CacheRecorder) -> None:
    changes = [change.encode() for change in teller.take_changes()]
    for recorder in (teller, *listeners):
        recorder.replay(changes)


def test_the_adapter_uses_the_recorders_cache() -> None:
    recorder = process()
    recorder.adapter.cache.add(relation("a"))
    assert len(recorder.take_changes()) == 1


def test_what_one_process_adds_and_drops_the_other_sees() -> None:
    one, other = process(), process()
    for recorder in (one, other):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a"))
    one.cache.add(relation("b", kind=RelationType.View))
    tell(one, other)
    assert names(one) == names(other) == ["a", "b"]
    other.cache.drop(relation("a"))
    tell(other, one)
    assert names(one) == names(other) == ["b"]
    assert other.cache.get_relations("d", "s")[0].type == RelationType.View


def test_a_replayed_change_is_not_told_again() -> None:
    one, other = process(), process()
    one.cache.add(relation("a"))
    tell(one, other)
    assert one.take_changes() == other.take_changes() == ()
    assert one.position == other.position == 1


def test_a_rename_is_told_whether_or_not_the_old_name_was_known() -> None:
    one, knows, does_not = process(), process(), process()
    for recorder in (one, knows, does_not):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a__dbt_tmp"))
    knows.cache.add(relation("a__dbt_tmp"))
    one.take_changes()
    knows.take_changes()
    one.cache.rename(relation("a__dbt_tmp"), relation("a"))
    tell(one, knows, does_not)
    assert names(one) == names(knows) == names(does_not) == ["a"]


def test_dropping_a_relation_drops_what_depends_on_it_everywhere() -> None:
    one, other = process(), process()
    for recorder in (one, other):
        recorder.cache.update_schemas([("d", "s")])
    one.cache.add(relation("table"))
    one.cache.add(relation("view", kind=RelationType.View))
    one.cache.add_link(relation("table"), relation("view"))
    tell(one, other)
    other.cache.drop(relation("table"))
    assert names(other) == []


def test_a_dropped_schema_is_dropped_everywhere() -> None:
    one, other = process(), process()
    one.cache.update_schemas([("d", "s")])
    one.cache.add(relation("a"))
    tell(one, other)
    assert ("d", "s") in other.cache
    one.cache.drop_schema("d", "s")
    tell(one, other)
    assert ("d", "s") not in other.cache
    assert names(other) == []


def test_a_snapshot_replaces_all_that_was_known_links_included() -> None:
    one, other = process(), process()
    one.cache.update_schemas([("d", "s"), ("d", "empty")])
    one.cache.add(relation("table"))
    one.cache.add(relation("view", kind=RelationType.View))
    one.cache.add_link(relation("table"), relation("view"))
    other.cache.add(relation("of_yesterday"))
    other.take_changes()
    snapshot = one.snapshot()
    assert one.take_changes() == (), "what led to the snapshot is in it"
    other.replay([snapshot.encode()])
    assert names(other) == ["table", "view"]
    assert ("d", "empty") in other.cache
    other.cache.drop(relation("table"))
    assert names(other) == []


def test_a_snapshot_gives_every_relation_back_as_it_was() -> None:
    one, other = process(), process()
    quoted = relation("Q").quote(database=False, identifier=True)
    nowhere = BaseRelation.create(schema="s", identifier="nowhere")
    told = [relation("a"), relation("v", kind=RelationType.View), quoted, relation("b"), nowhere,
            *(relation(f"k{each}").replace(catalog=f"c{each}") for each in range(20)), relation("z")]  # fmt: skip
    for each in told:
        one.cache.add(each)
    other.replay([one.snapshot().encode()])

    def plain(recorder: CacheRecorder) -> dict[str, Any]:
        cached = (each.inner for each in recorder.cache.relations.values())
        return {each.identifier: (type(each), each.to_dict(), each.render()) for each in cached}

    assert plain(other) == plain(one)
    assert len(plain(one)) == len(told)


def test_what_was_told_while_the_warehouse_was_asked_outlives_the_snapshot() -> None:
    retrying, beside, third = process(), process(), process()
    for recorder in (retrying, beside, third):
        recorder.cache.update_schemas([("d", "s")])
        recorder.take_changes()
    snapshot = retrying.snapshot()  # the warehouse is asked, and a long node executed
    beside.cache.add(relation("made_beside"))
    (made,) = beside.take_changes()
    for recorder in (retrying, beside, third):
        recorder.replay([made.encode()])
        recorder.replay([snapshot.encode()])
        assert names(recorder) == ["made_beside"]
        assert recorder.position == 2


def test_a_snapshot_may_have_seen_a_node_in_the_middle_of_its_renames() -> None:
    replaced, old, new = relation("a"), relation("a__dbt_backup"), relation("a__dbt_tmp")
    beside, retrying, third = process(), process(), process()
    for recorder in (beside, retrying, third):
        recorder.cache.update_schemas([("d", "s")])
        recorder.cache.add(replaced)
        recorder.take_changes()
    beside.cache.add(new)
    beside.cache.rename(replaced, old)
    beside.cache.rename(new, replaced)
    retrying.cache.add(old)  # as the warehouse shows it: committed, and the backup not yet dropped
    snapshot = retrying.snapshot()
    beside.cache.drop(old)
    told = [change.encode() for change in beside.take_changes()]
    third.replay([snapshot.encode(), *told])
    retrying.replay([snapshot.encode(), *told])
    beside.replay([snapshot.encode(), *told])
    assert names(third) == names(retrying) == names(beside) == ["a"]


def test_a_recorder_on_an_adapter_that_was_recorded_before_starts_afresh() -> None:
    first = process()
    first.cache.add(relation("a"))
    second = CacheRecorder(first.adapter)
    second.use()
    second.cache.add(relation("b"))
    assert len(second.take_changes()) == 1
    assert len(first.take_changes()) == 1


def test_a_deprecation_is_told_once_and_counted_everywhere() -> None:
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


def test_a_relation_whose_type_a_macro_wrote_as_a_word_is_told_too() -> None:
    first, second = process(), process()
    word: Any = "view"
    first.cache.add(relation("a").replace(type=word))
    second.replay([first.snapshot().encode()])
    assert [each.type for each in second.cache.get_relations("d", "s")] == [RelationType.View]
