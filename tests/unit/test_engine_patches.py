"""What is worked out once instead of each time is what dbt works out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import agate
import dbt_common.clients.jinja
import dbt_common.exceptions.base
import networkx as nx
import pytest
from dbt.adapters.base import BaseAdapter
from dbt.adapters.cache import RelationsCache
from dbt.adapters.clients.jinja import QueryStringGenerator
from dbt.adapters.duckdb.relation import DuckDBRelation
from dbt.adapters.events.types import SQLQuery
from dbt.adapters.exceptions.cache import NoneRelationFoundError
from dbt.adapters.reference_keys import _ReferenceKey
from dbt.clients.jinja import MacroGenerator, MacroStack, get_rendered
from dbt.context.base import Var
from dbt.context.macros import MacroNamespace, MacroNamespaceBuilder
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro
from dbt.events.types import LogStartLine, MainReportVersion
from dbt.graph import Graph, UniqueId
from dbt_common.clients import agate_helper
from dbt_common.clients.jinja import get_environment
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.exceptions import CompilationError

from tests.support.untraced import parse_untraced
from workers.contract.events import Event
from workers.engine.execution.relation_cache import _recording
from workers.engine.output.events import FilteringEventManager, LineSink
from workers.engine.patches import frozen_macros, registry, relations, templates
from workers.engine.patches.events import _dbt_init
from workers.engine.patches.graph import _dbt_get_subset_graph

parse_untraced()
registry.apply()

NODE = {
    "node_path": "models/größe.sql", "node_name": "m", "unique_id": "model.a.m", "resource_type": "model",
    "materialized": "table", "node_status": "started", "node_started_at": None, "node_finished_at": "",
    "meta": {"owner": "x"}, "node_relation": {"database": "d", "schema": "s", "alias": "m"},
}  # fmt: skip


def kinds() -> Iterator[type[BaseEvent]]:
    for name in ("dbt.events.types", "dbt.adapters.events.types", "dbt_common.events.types"):
        for kind in vars(importlib.import_module(name)).values():
            if isinstance(kind, type) and issubclass(kind, BaseEvent) and kind.__module__ == name:
                yield kind


def value_for(field: Any) -> Any:
    repeated = getattr(field, "is_repeated", None)
    if repeated is None:
        repeated = field.label == field.LABEL_REPEATED
    if field.message_type is not None:
        nested = field.message_type
        if nested.GetOptions().map_entry:
            return {"key": value_for(nested.fields_by_name["value"])}
        if nested.file.package == "google.protobuf":
            return None
        value: Any = {each.name: value_for(each) for each in nested.fields}
    else:
        value = {
            field.CPPTYPE_STRING: "größe", field.CPPTYPE_BOOL: True, field.CPPTYPE_DOUBLE: 0.1,
            field.CPPTYPE_FLOAT: 0.1,
        }.get(field.cpp_type, 3)  # fmt: skip
    return [value] if repeated else value


def test_every_event_says_what_it_says_in_dbt() -> None:
    compared = 0
    for kind in kinds():
        message = getattr(kind.PROTO_TYPES_MODULE, kind.__name__, None)
        if message is None:
            continue
        said = {field.name: value_for(field) for field in message.DESCRIPTOR.fields}
        theirs: Any = kind.__new__(kind)
        _dbt_init(theirs, **said)
        assert kind(**said).pb_msg == theirs.pb_msg, kind
        compared += 1
    assert compared > 150


@pytest.mark.parametrize(
    "said",
    [
        {"conn_name": "c", "sql": "select 1", "node_info": NODE},
        {"conn_name": None, "sql": "select 1", "node_info": {}},
        {"connName": "c", "sql": ""},
    ],
)
def test_odd_values_of_an_event_are_read_as_in_dbt(said: dict[str, Any]) -> None:
    theirs: Any = SQLQuery.__new__(SQLQuery)
    _dbt_init(theirs, **said)
    assert SQLQuery(**said).pb_msg == theirs.pb_msg


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (SQLQuery, {"sql": "\ud800"}),
        (SQLQuery, {"sql": 3}),
        (SQLQuery, {"nothing": "x"}),
        (LogStartLine, {"index": True}),
        (LogStartLine, {"index": "three"}),
    ],
)
def test_what_dbt_cannot_read_it_complains_of(kind: type[BaseEvent], said: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="Unable to parse logging event dictionary"):
        kind(**said)


class Heard:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, msg: Any) -> None:
        self.names.append(msg.info.name)


def test_a_debug_event_is_passed_to_whoever_does_not_say_that_nothing_comes_of_it() -> None:
    heard, manager = Heard(), FilteringEventManager()
    manager.callbacks.append(heard)
    manager.fire_event(SQLQuery(sql="select 1"))
    assert heard.names == ["SQLQuery"]


@pytest.mark.parametrize("debug", [True, False])
def test_a_sink_says_the_same_behind_either_manager(*, debug: bool) -> None:
    told: list[list[Event]] = []
    for manager in (EventManager(), FilteringEventManager()):
        events: list[Event] = []
        manager.callbacks.append(LineSink(None, "run", "step", events.append, debug=debug))
        manager.fire_event(SQLQuery(sql="select 1", conn_name="c"))
        manager.fire_event(MainReportVersion(version="1", log_version=3))
        manager.fire_event(SQLQuery(sql="select 2", conn_name="c"), level=EventLevel.INFO)
        told.append(events)
    said = [[event.text.partition("  ")[2] or event.text for event in events] for events in told]
    assert said[0] == said[1]
    assert len(said[0]) == (3 if debug else 2)


def test_a_muted_sink_hears_no_debug_event() -> None:
    sink = LineSink(None, "run", "step", lambda _: None, debug=True)
    assert not sink.handle_debug(SQLQuery(sql=""))
    with sink.muted():
        assert sink.handle_debug(SQLQuery(sql=""))


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_ONE", "größe")
    monkeypatch.setenv("DBT_ENV_SECRET_NONE", " ")
    monkeypatch.setenv("DBT_ENV_OTHER", "x")
    assert dbt_common.exceptions.base.env_secrets() == ["größe"]


def test_a_query_comment_is_compiled_once_and_sees_its_own_context() -> None:
    text = "{%- macro query_comment_macro(connection_name, node) -%}{{ who }}{% endmacro %}"
    first, second = (QueryStringGenerator(text, {"who": who}) for who in ("one", "two"))
    assert (first("c", None), second("c", None)) == ("one", "two")


def macro(package: str, name: str) -> Macro:
    return Macro.from_dict(
        {
            "name": name, "package_name": package, "path": "m.sql", "original_file_path": "m.sql",
            "unique_id": f"macro.{package}.{name}", "resource_type": "macro",
            "macro_sql": f"{{% macro {name}() %}}{{% endmacro %}}",
        }
    )  # fmt: skip


def namespace(manifest: Manifest, package: str, node: Any = None) -> MacroNamespace:
    builder = MacroNamespaceBuilder("root", package, MacroStack(), ["dbt_duckdb", "dbt"], node)
    return builder.build_namespace(manifest.get_macros_by_package(), {"for": package})


def shape(made: MacroNamespace) -> dict[str, Any]:
    return {
        name: found.macro.unique_id if isinstance(found, MacroGenerator) else shape_of_package(found)
        for name, found in made.items()
    }


def shape_of_package(package: Any) -> dict[str, str]:
    return {name: found.macro.unique_id for name, found in package.items()}


@pytest.mark.skipif(not registry.enabled("macros"), reason="dbt finds macros lazily itself")
@pytest.mark.parametrize("package", ["root", "other", "dbt"])
def test_a_remembered_namespace_finds_what_dbts_does(package: str) -> None:
    manifest = Manifest()
    for made in (
        macro("root", "both"), macro("root", "mine"), macro("other", "both"), macro("other", "theirs"),
        macro("dbt", "both"), macro("dbt", "over"), macro("dbt", "plain"), macro("dbt_duckdb", "over"),
    ):  # fmt: skip
        manifest.macros[made.unique_id] = made
    plain = namespace(manifest, package)
    frozen_macros.freeze_macros(manifest)
    namespace(manifest, package)
    node = object()
    again = namespace(manifest, package, node)
    assert type(plain) is MacroNamespace
    assert type(again) is not MacroNamespace
    assert shape(again) == shape(plain)
    assert (len(again), set(again), "mine" in again, "none" in again) == (len(plain), set(plain), True, False)
    assert again.get("none") is None
    assert again.get_from_package("other", "both").macro.package_name == "other"  # type: ignore[union-attr]
    found = again["mine"]
    assert isinstance(found, MacroGenerator)
    ours, theirs = vars(found), vars(MacroGenerator(found.macro, {"for": package}, node, found.stack))
    assert ours == theirs
    assert again["mine"] is again.get_from_package("root", "mine")


def relation(identifier: str, *, ours: bool = False, quoted: bool = True) -> Any:
    return DuckDBRelation.create(
        database="d", schema="main", identifier=identifier, dbt_created=ours,
        quote_policy={"identifier": quoted},
    )  # fmt: skip


class Adapter(BaseAdapter):
    """As much of an adapter as matching needs."""

    Relation = DuckDBRelation

    def __init__(self, kind: str = "duckdb") -> None:
        self.kind = kind
        self.config: Any = SimpleNamespace(quoting={"database": True, "schema": True, "identifier": True})

    def type(self) -> str:  # type: ignore[override]
        return self.kind


Adapter.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return [each.render() for each in work()]
    except Exception as error:  # noqa: BLE001 - dbt's own
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("wanted", ["orders", "Orders", '"orders"', "customers", "none", ""])
def test_a_relation_is_found_as_dbt_finds_it(wanted: str) -> None:
    known = [relation("orders"), relation("CUSTOMERS", ours=True, quoted=False), relation("other")]
    adapter = Adapter()
    ours = outcome(lambda: adapter._make_match(known, "d", "main", wanted))
    assert ours == outcome(lambda: relations._dbt_make_match(adapter, known, "d", "main", wanted))


@pytest.mark.parametrize(
    "wanted", ["orders", "Orders", '"orders"', "customers", "none", "", '"', "`other`", None]
)
def test_a_relation_is_looked_up_in_the_cache_as_dbt_does(wanted: Any) -> None:
    adapter: Any = Adapter()
    adapter.cache = _recording(RelationsCache, SimpleNamespace(record=lambda *_: None))  # type: ignore[arg-type]
    for known in ("orders", "CUSTOMERS", "other", '"Orders"'):
        adapter.cache.add(relation(known))
    adapter.cache.add(DuckDBRelation.create(database="d", schema="else", identifier="orders"))
    for database, schema in (("d", "main"), ("D", "Main"), ("d", "else")):
        ours = outcome(lambda: [adapter.get_relation(database, schema, wanted)])  # noqa: B023
        assert ours == outcome(lambda: [relations._dbt_get_relation(adapter, database, schema, wanted)])  # noqa: B023
    assert len(adapter.list_relations("d", "main")) == 4


def test_what_is_known_of_spelling_follows_the_cache() -> None:
    cache: Any = _recording(RelationsCache, SimpleNamespace(record=lambda *_: None))  # type: ignore[arg-type]

    def found(identifier: str) -> list[str]:
        with cache.only_identifier(identifier):
            return [each.identifier for each in cache.get_relations("d", "main")]

    cache.add(relation("a"))
    cache.rename(relation("a"), relation("B"))
    assert (found("a"), found("A"), found('"b"')) == ([], [], ["B"])
    cache.relations.update(
        {_ReferenceKey("d", "main", "b2"): cache.relations[_ReferenceKey("d", "main", "b")]}
    )
    assert found("b2") == ["B"]
    cache.relations.popitem()
    assert found("b2") == []
    cache.drop(relation("b"))
    assert found("b") == []
    cache.add(relation("a"))
    cache.clear()
    assert found("a") == []
    assert cache.relations._keys == {}


def test_a_text_is_compiled_once_for_each_kind_of_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(*, native: bool = False) -> Any:
        return get_environment(native=native).compile("{{ a }} of {{ b }}")

    assert code() is code()
    assert code() is not code(native=True)
    monkeypatch.setattr(dbt_common.clients.jinja, "MACRO_DEBUGGING", True)
    assert code() is not code()
    monkeypatch.undo()
    monkeypatch.setattr(templates, "_COMPILED_AT_MOST", 0)
    assert get_rendered("{{ a }} in {{ b }}", {"a": 1, "b": 2}) == "1 in 2"
    assert len(templates._compiled) == 1
    with pytest.raises(CompilationError, match="expected token"):
        get_rendered("{{ a b }}", {})


@pytest.mark.skipif(not registry.enabled("vars"), reason="dbt copies no context itself")
def test_a_var_is_rendered_as_in_dbt() -> None:
    given = {"plain": "x", "jinja": "{{ word }}!", "number": 3, "list": ["{{ word }}"], "open": "{%"}
    for name in given:
        answers = []
        for rendered in (Var.get_rendered_var, templates._dbt_get_rendered_var):
            var = Var({"word": "w"}, given)
            answers.append(outcome(lambda: [SimpleNamespace(render=lambda: rendered(var, name))]))  # noqa: B023
        assert answers[0] == answers[1]


def test_an_answer_without_rows_is_a_table_of_its_own() -> None:
    first, second = agate_helper.empty_table(), agate_helper.empty_table()
    assert first is not second
    assert vars(first).keys() == vars(agate.Table(rows=[])).keys()
    assert (len(first.rows), first.column_names, agate_helper.as_matrix(first)) == (0, (), [])


@pytest.mark.parametrize("wanted", [False, True])
def test_additions_to_the_cache_are_events_where_somebody_wants_them(
    monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(relations, "get_flags", lambda: SimpleNamespace(LOG_CACHE_EVENTS=wanted))
    monkeypatch.setattr("dbt.adapters.cache.fire_event", lambda event: heard.append(event.action))
    cache = RelationsCache()
    first = DuckDBRelation.create(database="D", schema="s", identifier="M")
    for each in (first, DuckDBRelation.create(database="d", schema="S", identifier="m")):
        cache.add(each)
    assert heard == ["add_relation"] * (2 * wanted)
    assert cache.get_relations("d", "s") == [first], "the first of a name stays"
    assert ("d", "s") in cache


def test_schemas_of_a_project_are_those_that_dbt_finds() -> None:
    nodes: list[Any] = [
        SimpleNamespace(
            database="d", schema=f"s{number % 3}", identifier=f"m{number}", quoting_dict={}, config={},
            resource_type="model",
        )
        for number in range(9)
    ]  # fmt: skip
    for adapter in (Adapter(), Adapter("other")):
        found = {str(each) for each in adapter._get_cache_schemas(nodes)}
        assert found == {str(each) for each in relations._dbt_get_cache_schemas(adapter, nodes)}
        assert len(found) == 3


@pytest.mark.parametrize("selected", [{"b"}, {"a", "c"}, set()])
def test_the_graph_of_what_is_selected_is_dbts(selected: set[Any]) -> None:
    graph = Graph(nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d")]))
    ours, theirs = graph.get_subset_graph(selected).graph, _dbt_get_subset_graph(graph, selected).graph
    assert (set(ours.nodes), set(ours.edges)) == (set(theirs.nodes), set(theirs.edges))
    ours.add_node("new")  # dbt's queue takes nodes out of it
    assert "new" not in graph.graph


def test_what_cannot_be_selected_is_dbts_to_say() -> None:
    graph = Graph(nx.DiGraph([("a", "b")]))
    assert outcome(lambda: graph.get_subset_graph([UniqueId("x")])) == outcome(
        lambda: _dbt_get_subset_graph(graph, [UniqueId("x")])
    )


def test_the_cache_lists_the_relations_of_a_schema_whatever_its_case() -> None:
    cache = _recording(RelationsCache, SimpleNamespace(record=lambda *_: None))  # type: ignore[arg-type]
    for name in ("a", "B"):
        cache.add(relation(name))
    cache.add(DuckDBRelation.create(database="d", schema="else", identifier="c"))
    plain: Any = RelationsCache.get_relations
    for asked in (("D", "MAIN"), ("d", "else"), ("d", "none"), (None, "main")):
        assert cache.get_relations(*asked) == plain(cache, *asked)
    assert len(cache.get_relations("D", "Main")) == 2
    cache.relations[_ReferenceKey("d", "main", "odd")] = SimpleNamespace(inner=None)
    with pytest.raises(NoneRelationFoundError):
        cache.get_relations("d", "main")
