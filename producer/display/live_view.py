"""Shows a run while it is executed: a progress display on a terminal, plain lines elsewhere.

`Progress` collects the state of a run from its events. `LiveView` shows it below dbt's lines;
`PlainView` writes only the lines. A view can show several runs, one after another.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from workers.contract.events import LINE, RUN, STATE, Event, waiting_for
from workers.contract.results import BAD_STATUSES, GOOD_STATUSES, RETRYING, RUN_TERMINAL, RUNNING, WAITING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MAX_ROWS = 12
"""How many running nodes are listed; the others are counted."""

STEP_NAMES = {
    "@plan": "planning",
    "@start": "on-run-start",
    "@close": "closing",
    "@command": "running the command",
    "@session": "",
}
"""Display names of the steps that are not nodes."""

_OF_TOTAL = re.compile(r"\b\d+ of (\d+) [A-Z]+ (?!hook:)")
"""dbt's count of nodes in its lines: ``1 of 40 START …``. dbt counts hooks separately."""


@dataclass
class Running:
    """A step that a worker is executing. `since` is seconds since the epoch, by the worker's clock."""

    attempt: int
    worker: str
    since: float


@dataclass
class Progress:
    """State of a run, collected from its events.

    Attributes:
        run_id: id of the run; empty before the first event.
        total: number of nodes of the run; 0 until dbt has printed it.
        done: finished node → its dbt status.
        running: steps that workers are executing, nodes and others.
        retrying: nodes that wait for another attempt.
        waiting: step that waits → reason, for example a relation that another run is writing.
        state: state of the run.
    """

    run_id: str = ""
    total: int = 0
    done: dict[str, str] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    retrying: set[str] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)
    state: str = ""

    def apply(self, event: Event) -> None:
        """Update from the next event of the run."""
        if event.kind == STATE:
            self._apply_state(event)
        elif event.kind == RUN:
            self.state = event.state
            if event.state in RUN_TERMINAL:
                self.running.clear()
                self.waiting.clear()
        elif event.kind == LINE:
            found = _OF_TOTAL.search(event.text)
            if found:
                self.total = max(self.total, int(found[1]))

    def _apply_state(self, event: Event) -> None:
        step, state = event.node, event.state
        self.running.pop(step, None)
        self.retrying.discard(step)
        self.waiting.pop(step, None)
        if state == RUNNING:
            self.running[step] = Running(event.attempt, event.worker, event.at)
        elif state == RETRYING:
            self.retrying.add(step)
        elif state == WAITING:
            self.waiting[step] = event.text
        elif state in GOOD_STATUSES | BAD_STATUSES and not step.startswith("@"):
            self.done[step] = state

    def counts(self) -> dict[str, int]:
        """Number of finished nodes by dbt status, most frequent first."""
        return dict(Counter(self.done.values()).most_common())

    def phase(self) -> str:
        """Name of the running step that is not a node: ``planning``, ``closing``, …; empty if none is."""
        return next((STEP_NAMES[step] for step in self.running if STEP_NAMES.get(step)), "")


class PlainView:
    """Writes dbt's lines as they arrive."""

    def __init__(self, file: TextIO, *, title: str = "") -> None:
        self.title = title  # not shown; `LiveView` shows it
        self._file = file

    def on_event(self, event: Event) -> None:
        """Show an event."""
        if event.kind == LINE:
            self._file.write(f"{event.text}\n")
            self._file.flush()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LiveView:
    """Shows dbt's lines and, below them, the running nodes. For a terminal."""

    def __init__(self, console: Console, *, title: str = "", clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            console: where to show the run.
            title: text before the counts; may be changed between runs.
            clock: returns seconds since the epoch.
        """
        from rich.live import Live

        self.title = title
        self.progress = Progress()
        self._clock = clock
        self._lock = threading.Lock()  # rich refreshes from its own thread
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=5, transient=True)

    def on_event(self, event: Event) -> None:
        """Show an event."""
        from rich.text import Text

        with self._lock:
            if event.run_id != self.progress.run_id:
                self.progress = Progress(event.run_id)
            self.progress.apply(event)
        if event.kind == LINE:
            self._live.console.print(Text.from_ansi(event.text), soft_wrap=True)
        elif event.kind in (STATE, RUN):
            self._live.refresh()

    def render(self) -> RenderableType:
        """Render the counts and the running nodes. Called by rich."""
        with self._lock:
            return render_progress(self.progress, self.title, self._clock())

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def view_for(file: TextIO, *, title: str = "", plain: bool = False) -> LiveView | PlainView:
    """Return a `LiveView` if `file` is a terminal and not `plain`, else a `PlainView`."""
    if plain or not file.isatty():
        return PlainView(file, title=title)
    from rich.console import Console

    return LiveView(Console(file=file, highlight=False), title=title)


def render_progress(progress: Progress, title: str, now: float) -> RenderableType:
    """Render a bar, counts, and a row for each running node. `now` is seconds since the epoch."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = len(progress.done)
    counts = Text(title, style="bold")
    if title:
        counts.append("  ")
    counts.append(f"{done}/{progress.total}" if progress.total else f"{done} done")
    for status, number in progress.counts().items():
        counts.append(f"  {number} {status}", style=status_style(status))
    if progress.retrying:
        counts.append(f"  {len(progress.retrying)} waiting to retry", style="yellow")
    if progress.phase():
        counts.append(f"  {progress.phase()}", style="dim")
    parts: list[RenderableType] = [counts]
    if progress.total:
        parts = [Columns([ProgressBar(total=progress.total, completed=done, width=30), counts])]
    waits: list[RenderableType] = []
    rows = Table.grid(padding=(0, 2))
    nodes = {step: running for step, running in progress.running.items() if not step.startswith("@")}
    for step, running in list(nodes.items())[:MAX_ROWS]:
        attempt = f"attempt {running.attempt}" if running.attempt > 1 else ""
        rows.add_row(
            Text("  " + short_name(step), style="cyan"),
            Text(f"{max(0.0, now - running.since):.1f} s", justify="right"),
            Text(running.worker, style="dim"),
            Text(attempt, style="yellow"),
        )
    if len(nodes) > MAX_ROWS:
        rows.add_row(Text(f"  and {len(nodes) - MAX_ROWS} more", style="dim"))
    for step, text in list(progress.waiting.items())[:MAX_ROWS]:
        # not in the grid, whose columns it would widen
        waits.append(Text(f"  {waiting_for(short_name(step), text)}", style="yellow"))
    if len(progress.waiting) > MAX_ROWS:
        waits.append(Text(f"  and {len(progress.waiting) - MAX_ROWS} more wait", style="yellow"))
    return Group(*parts, rows, *waits)


def short_name(unique_id: str) -> str:
    """Shorten ``model.shop.orders`` to ``orders``. A version or a test's hash is kept."""
    return unique_id.split(".", 2)[-1]


def status_style(status: str) -> str:
    """Colour of a dbt status."""
    if status in ("warn", "skipped", "no-op"):
        return "yellow" if status == "warn" else "dim"
    return "green" if status in GOOD_STATUSES else "red"
