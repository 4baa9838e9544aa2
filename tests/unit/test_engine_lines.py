"""dbt's events as lines: what dbt's console would show, and nothing else."""

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


def said(*events: Any, debug: bool = False, level: EventLevel | None = None, **changed: Any) -> list[Event]:
    """The events that a sink makes of dbt's."""
    heard: list[Event] = []
    sink = LineSink(flags(**changed), "run", "model.p.m", heard.append, debug=debug, attempt=2, worker="w:1")
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    try:
        for event in events:
            fire_event(event, level=level)
    finally:
        cleanup_event_logger()
    return heard


def test_a_line_carries_who_said_it() -> None:
    (event,) = said(Note(msg="hello"))
    assert event.text.endswith("  hello")
    assert (event.kind, event.run_id, event.node, event.level) == (LINE, "run", "model.p.m", "info")
    assert (event.attempt, event.worker) == (2, "w:1")


def test_an_event_of_many_lines_is_many_lines() -> None:
    assert [event.text[-3:] for event in said(Note(msg="one\ntwo"))] == ["one", "two"]


@pytest.mark.parametrize("changed", [{}, {"DEBUG": True}, {"LOG_FORMAT": "json"}])
def test_secrets_of_the_environment_are_masked_as_dbt_masks_them(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_WORD", "opensesame")
    (event,) = said(Note(msg="say opensesame"), **changed)
    assert "say *****" in event.text


def test_a_debug_event_that_the_console_does_not_show_is_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_WORD", "opensesame")
    (event,) = said(Note(msg="say opensesame"), debug=True, level=EventLevel.DEBUG)
    assert (event.kind, event.text) == (DEBUG, "say *****")


@pytest.mark.parametrize(
    "text",
    [
        '"token": "x", password=abc, create secret (key_id \'a\')',
        "https://me:pw@host/ " + "a." * 120_000,
        "password='" * 30_000,
    ],
    ids=["credentials", "url and dots", "quotes"],
)
def test_a_line_is_not_searched_for_credentials(text: str) -> None:
    assert said(Note(msg=text))[0].text.endswith(text)


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
def test_levels(changed: dict[str, Any], level: EventLevel, shown: bool) -> None:
    assert bool(said(Note(msg="x"), level=level, **changed)) is shown


def test_what_a_macro_prints_is_shown_even_when_quiet() -> None:
    (event,) = said(PrintEvent(msg="printed"), QUIET=True)
    assert event.text == "printed"


def test_debug_events_are_kept_where_they_were_asked_for() -> None:
    (event,) = said(Note(msg="deep"), debug=True, level=EventLevel.DEBUG)
    assert (event.kind, event.text) == (DEBUG, "deep")


def test_an_empty_debug_event_is_not_kept() -> None:
    assert said(Formatting(""), debug=True, level=EventLevel.DEBUG) == []


def test_json() -> None:
    (event,) = said(Note(msg="hello"), LOG_FORMAT="json")
    assert json.loads(event.text)["info"]["msg"] == "hello"


def test_colours_are_dbts() -> None:
    assert said(Note(msg="x"), USE_COLORS=True)[0].text.startswith("\x1b[0m")
    assert "\x1b" not in said(Note(msg="x"))[0].text


def test_before_the_flags_are_known_dbts_defaults_hold() -> None:
    heard: list[Event] = []
    sink = LineSink(None, "run", "@plan", heard.append)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    fire_event(Note(msg="x"))
    sink.configure(flags(LOG_LEVEL="error"))
    fire_event(Note(msg="y"))
    cleanup_event_logger()
    assert [event.text[-1] for event in heard] == ["x"]


def test_a_muted_sink_says_nothing() -> None:
    heard: list[Event] = []
    sink = LineSink(flags(), "run", "@plan", heard.append)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    with sink.muted():
        fire_event(Note(msg="x"))
    fire_event(Note(msg="y"))
    cleanup_event_logger()
    assert [event.text[-1] for event in heard] == ["y"]
