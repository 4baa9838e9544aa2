"""The progress display: its state from events, and its text."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from rich.console import Console

from producer.display.live_view import (
    LiveView,
    PlainView,
    Progress,
    render_progress,
    short_name,
    status_style,
    view_for,
)
from workers.contract.events import DEBUG, LINE, RUN, STATE, Event

RUN_ID = "20260101T000000-0123456789ab"
ORDERS, PAYMENTS = "model.shop.orders", "model.shop.payments"


def state(node: str, status: str, *, attempt: int = 1, at: float = 100.0, worker: str = "h:1") -> Event:
    return Event(kind=STATE, run_id=RUN_ID, node=node, state=status, attempt=attempt, at=at, worker=worker)


def line(text: str, *, run_id: str = RUN_ID) -> Event:
    return Event(kind=LINE, run_id=run_id, text=text)


def progress_after(events: Iterable[Event]) -> Progress:
    progress = Progress(RUN_ID)
    for event in events:
        progress.apply(event)
    return progress


def shown(progress: Progress, *, title: str = "", now: float = 102.5) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_progress(progress, title, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_node_runs_and_ends() -> None:
    progress = progress_after(
        [line("1 of 2 START sql table model main.orders ... [RUN]"), state(ORDERS, "running")]
    )
    assert progress.total == 2
    assert progress.running[ORDERS].worker == "h:1"
    progress.apply(state(ORDERS, "success"))
    assert progress.running == {}
    assert progress.done == {ORDERS: "success"}
    assert progress.counts() == {"success": 1}


@pytest.mark.parametrize("status", ["error", "fail", "skipped", "pass", "warn", "no-op", "partial success"])
def test_every_status_of_dbt_ends_a_node(status: str) -> None:
    assert progress_after([state(ORDERS, "running"), state(ORDERS, status)]).counts() == {status: 1}


def test_retried_node_waits_and_runs_again() -> None:
    progress = progress_after([state(ORDERS, "running"), state(ORDERS, "retrying")])
    assert progress.retrying == {ORDERS}
    assert progress.running == {}
    assert "1 waiting to retry" in shown(progress)
    progress.apply(state(ORDERS, "running", attempt=2))
    assert progress.retrying == set()
    assert "attempt 2" in shown(progress)


def test_lost_node_is_neither_running_nor_done() -> None:
    progress = progress_after([state(ORDERS, "running"), state(ORDERS, "lost")])
    assert (progress.running, progress.done) == ({}, {})


def test_waiting_node_is_shown_with_the_run_it_waits_for() -> None:
    waiting = Event(
        kind="state", run_id=RUN_ID, node=ORDERS, state="waiting", text="20260101T000000-0123456789ab"
    )
    progress = progress_after([waiting])
    assert "orders waits: run 20260101T000000-0123456789ab is writing its relation" in shown(progress)
    progress.apply(state(ORDERS, "running"))
    assert "waits" not in shown(progress)
    many = progress_after(
        [
            Event(kind="state", run_id=RUN_ID, node=f"model.p.n{n}", state="waiting", text="x")
            for n in range(15)
        ]
    )
    assert "and 3 more wait" in shown(many)
    many.apply(Event(kind=RUN, run_id=RUN_ID, state="cancelled"))
    assert many.waiting == {}


def test_steps_other_than_nodes_are_shown_as_a_phase() -> None:
    progress = progress_after([state("@plan", "running")])
    assert progress.phase() == "planning"
    assert "planning" in shown(progress)
    progress.apply(state("@plan", "success"))
    assert (progress.phase(), progress.done) == ("", {})
    progress.apply(state("@session", "running"))
    assert progress.phase() == ""


def test_hooks_do_not_count_as_nodes() -> None:
    progress = progress_after(
        [line("1 of 9 START hook: shop.on-run-start.0 ... [RUN]"), line("1 of 2 OK created ... [OK]")]
    )
    assert progress.total == 2


def test_no_node_is_running_after_the_run_has_ended() -> None:
    progress = progress_after([state(ORDERS, "running"), Event(kind=RUN, run_id=RUN_ID, state="cancelled")])
    assert progress.running == {}
    assert progress.state == "cancelled"


def test_display_shows_counts_elapsed_time_and_worker() -> None:
    progress = progress_after(
        [
            line("1 of 40 START sql"),
            state(PAYMENTS, "error"),
            state(ORDERS, "running", at=100.0, worker="box:7"),
        ]
    )
    text = shown(progress, title="2026", now=102.5)
    assert "2026  1/40  1 error" in text
    assert "orders" in text
    assert "2.5 s" in text
    assert "box:7" in text


def test_no_negative_time_for_a_worker_whose_clock_is_ahead() -> None:
    assert "0.0 s" in shown(progress_after([state(ORDERS, "running", at=500.0)]), now=100.0)


def test_many_running_nodes_are_counted_not_listed() -> None:
    progress = progress_after(state(f"model.shop.m{number}", "running") for number in range(20))
    assert "and 8 more" in shown(progress)


def test_plain_lines_where_the_output_is_not_a_terminal() -> None:
    file = io.StringIO()
    view = view_for(file, title="run")
    assert isinstance(view, PlainView)
    with view:
        view.on_event(line("one"))
        view.on_event(state(ORDERS, "running"))
        view.on_event(Event(kind=DEBUG, run_id=RUN_ID, text="detail"))
        view.on_event(line("\x1b[32mtwo\x1b[0m"))
    assert file.getvalue() == "one\n\x1b[32mtwo\x1b[0m\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_view_on_a_terminal_unless_plain() -> None:
    assert isinstance(view_for(Terminal()), LiveView)
    assert isinstance(view_for(Terminal(), plain=True), PlainView)


def test_lines_stay_above_the_display() -> None:
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=80, legacy_windows=False)
    with LiveView(console, title="2026", clock=lambda: 101.0) as view:
        view.on_event(line("1 of 2 START [red]model"))
        view.on_event(state(ORDERS, "running", at=100.0))
        view.on_event(state(ORDERS, "success"))
    text = file.getvalue()
    assert "1 of 2 START [red]model" in text
    assert text.index("START") < text.index("orders")
    assert "1.0 s" in text


def test_another_run_starts_with_empty_progress() -> None:
    with LiveView(Console(file=io.StringIO())) as view:
        view.on_event(state(ORDERS, "success"))
        assert view.progress.done
        view.on_event(line("1 of 3 START sql", run_id="20270101T000000-0123456789ab"))
        assert view.progress.done == {}
        assert view.progress.total == 3


def test_names_and_colours() -> None:
    assert short_name("model.shop.orders.v2") == "orders.v2"
    assert short_name("orders") == "orders"
    assert [status_style(word) for word in ("success", "warn", "skipped", "error")] == [
        "green",
        "yellow",
        "dim",
        "red",
    ]
