"""Events of dbt become exactly the lines that dbt would print."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager_client import cleanup_event_logger, get_event_manager
from dbt_common.events.functions import fire_event
from dbt_common.events.types import Formatting, Note, PrintEvent

from workers.contract.events import DEBUG, LINE, Event
from workers.engine.output.events import LineSink


def flags(**changed: Any) -> Any:
    plain = {
        "LOG_LEVEL": "info", "LOG_FORMAT": "default", "USE_COLORS": False, "LOG_CACHE_EVENTS": False,
        "QUIET": False, "DEBUG": False,
    }  # fmt: skip
    return SimpleNamespace(**{**plain, **changed})


def emitted(
    *events: Any, debug: bool = False, level: EventLevel | None = None, **changed: Any
) -> list[Event]:
    """Run events that a sink emits for events of dbt."""
    received: list[Event] = []
    sink = LineSink(
        flags(**changed), "run", "model.p.m", received.append, debug=debug, attempt=2, worker="w:1"
    )
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    try:
        for event in events:
            fire_event(event, level=level)
    finally:
        cleanup_event_logger()
    return received


def test_line_contains_its_node_attempt_and_worker() -> None:
    (event,) = emitted(Note(msg="hello"))
    assert event.text.endswith("  hello")
    assert (event.kind, event.run_id, event.node, event.level) == (LINE, "run", "model.p.m", "info")
    assert (event.attempt, event.worker) == (2, "w:1")


def test_multi_line_event_becomes_one_event_per_line() -> None:
    assert [event.text[-3:] for event in emitted(Note(msg="one\ntwo"))] == ["one", "two"]


@pytest.mark.parametrize("changed", [{}, {"DEBUG": True}, {"LOG_FORMAT": "json"}])
def test_env_secrets_are_masked_as_in_dbt(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_WORD", "opensesame")
    (event,) = emitted(Note(msg="word opensesame"), **changed)
    assert "word *****" in event.text


def test_hidden_debug_event_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_WORD", "opensesame")
    (event,) = emitted(Note(msg="word opensesame"), debug=True, level=EventLevel.DEBUG)
    assert (event.kind, event.text) == (DEBUG, "word *****")


@pytest.mark.parametrize(
    "text",
    [
        '"token": "x", password=abc, create secret (key_id \'a\')',
        "https://me:pw@host/ " + "a." * 120_000,
        "password='" * 30_000,
    ],
    ids=["credentials", "url and dots", "quotes"],
)
def test_credentials_in_lines_are_not_masked(text: str) -> None:
    assert emitted(Note(msg=text))[0].text.endswith(text)


@pytest.mark.parametrize(
    ("changed", "level", "shown"),
    [
        ({}, EventLevel.DEBUG, False),
        ({"DEBUG": True}, EventLevel.DEBUG, True),
        ({"LOG_LEVEL": "debug"}, EventLevel.DEBUG, True),
        ({"LOG_LEVEL": "warn"}, EventLevel.INFO, False),
        ({"LOG_LEVEL": "warn"}, EventLevel.ERROR, True),
        ({"QUIET": True}, EventLevel.WARN, False),
        ({"QUIET": True}, EventLevel.ERROR, True),
        ({"LOG_LEVEL": "none"}, EventLevel.ERROR, False),
    ],
)
def test_log_level_options_select_the_shown_events(
    changed: dict[str, Any], level: EventLevel, shown: bool
) -> None:
    assert bool(emitted(Note(msg="x"), level=level, **changed)) is shown


def test_print_of_a_macro_is_shown_with_quiet() -> None:
    (event,) = emitted(PrintEvent(msg="printed"), QUIET=True)
    assert event.text == "printed"


def test_debug_events_are_emitted_when_debug_is_on() -> None:
    (event,) = emitted(Note(msg="deep"), debug=True, level=EventLevel.DEBUG)
    assert (event.kind, event.text) == (DEBUG, "deep")


def test_empty_debug_event_is_dropped() -> None:
    assert emitted(Formatting(""), debug=True, level=EventLevel.DEBUG) == []


def test_json_format_emits_json_lines() -> None:
    (event,) = emitted(Note(msg="hello"), LOG_FORMAT="json")
    assert json.loads(event.text)["info"]["msg"] == "hello"


def test_colours_follow_dbts_flag() -> None:
    assert emitted(Note(msg="x"), USE_COLORS=True)[0].text.startswith("\x1b[0m")
    assert "\x1b" not in emitted(Note(msg="x"))[0].text


def test_dbts_defaults_apply_before_flags_are_configured() -> None:
    received: list[Event] = []
    sink = LineSink(None, "run", "@plan", received.append)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    fire_event(Note(msg="x"))
    sink.configure(flags(LOG_LEVEL="error"))
    fire_event(Note(msg="y"))
    cleanup_event_logger()
    assert [event.text[-1] for event in received] == ["x"]


def test_muted_sink_drops_events() -> None:
    received: list[Event] = []
    sink = LineSink(flags(), "run", "@plan", received.append)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    with sink.muted():
        fire_event(Note(msg="x"))
    fire_event(Note(msg="y"))
    cleanup_event_logger()
    assert [event.text[-1] for event in received] == ["y"]
