"""Converts dbt's structured events to run events: the lines that dbt would print, with step and worker."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from dbt.events.logging import _line_format_from_str
from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
from dbt_common.events.event_manager import EventManager
from dbt_common.events.event_manager_client import ctx_set_event_manager, get_event_manager
from dbt_common.events.functions import env_scrubber, get_stdout_config
from dbt_common.events.logger import LineFormat, _is_print_event, _JsonLogger, _Logger, _TextLogger

from workers.contract.credentials import escaped
from workers.contract.events import DEBUG, LINE, RECORD, STDERR, Event, encode_records
from workers.engine.output.console import StepConsole
from workers.engine.output.file_log import RANK, FileRecords, file_records
from workers.engine.output.masking import mask_while_opening
from workers.engine.patches import registry

_BEFORE_A_WAIT = frozenset({"SQLQuery", "CodeExecution"})
"""Events before a query that may run for long. They flush the buffered records of the log file."""

MAX_RECORDS = 50
"""Maximum number of log file records in one event."""


class FilteringEventManager(EventManager):
    """dbt's event manager, except that it builds no message for a debug event that no callback needs.

    dbt fires about 40 debug events per node. Loggers, and warnings that become errors, work as in dbt.
    """

    def fire_event(self, e: BaseEvent, level: EventLevel | None = None, *args: Any, **kwargs: Any) -> None:
        """See `EventManager.fire_event`."""
        if not self.loggers and (level or e.level_tag()) == EventLevel.DEBUG:
            force = args[1] if len(args) > 1 else kwargs.get("force_warn_or_error_handling")
            if not force and all(getattr(each, "handle_debug", _needs_message)(e) for each in self.callbacks):
                return
        super().fire_event(e, level, *args, **kwargs)


def _needs_message(_: BaseEvent) -> bool:
    return False


def install_event_manager() -> None:
    """Replace dbt's event manager of this process by a `FilteringEventManager`."""
    if registry.enabled("debug-events") and not isinstance(get_event_manager(), FilteringEventManager):
        ctx_set_event_manager(FilteringEventManager())


@functools.cache
def _always_shown(name: str) -> bool:
    named: Any = SimpleNamespace(info=SimpleNamespace(name=name))
    return bool(_is_print_event(named))


class LineSink:
    """Callback of dbt's event manager that emits each event as lines.

    dbt's own logger formats the lines, with its levels and colours, so that they are what dbt would print.
    """

    def __init__(
        self,
        flags: Any,
        run_id: str,
        step: str,
        emit: Callable[[Event], None],
        *,
        debug: bool = False,
        file_log: bool = False,
        attempt: int = 0,
        worker: str = "",
    ) -> None:
        self.run_id, self.step, self.emit = run_id, step, emit
        self.debug, self.attempt, self.worker = debug, attempt, worker
        self.level = RANK["info"]
        self.flags: Any | None = None
        self._file_log = file_log
        self._file: FileRecords | None = None
        self._records: deque[str] = deque()
        self._silent = False
        self._muted = False
        self.console: StepConsole | None = None
        self._logger: _Logger
        self.configure(flags)

    def configure(self, flags: Any | None) -> None:
        """Set format and level from dbt's flags. None: dbt's defaults, until the flags are known."""
        self.flags = flags
        level = EventLevel.INFO
        line_format, colors, cache_events = LineFormat.PlainText, True, False
        if flags is not None:
            # as dbt.events.logging.setup_event_logger decides
            self._silent = flags.LOG_LEVEL == "none"
            line_format = _line_format_from_str(flags.LOG_FORMAT, LineFormat.PlainText)
            colors, cache_events = flags.USE_COLORS, flags.LOG_CACHE_EVENTS
            if not self._silent:
                level = (
                    EventLevel.ERROR if flags.QUIET
                    else EventLevel.DEBUG if flags.DEBUG else EventLevel(flags.LOG_LEVEL)
                )  # fmt: skip
        config = get_stdout_config(line_format, colors, level, cache_events)
        config.output_stream = None
        self.level = RANK[level.value]
        self._file = file_records(flags) if self._file_log and flags is not None else None
        self._filter = config.filter
        self._logger = _JsonLogger(config) if line_format == LineFormat.Json else _TextLogger(config)

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Drop events of work that this process repeats and that another step has reported."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    @contextlib.contextmanager
    def buffered_until_success(self) -> Iterator[None]:
        """Buffer the events within; emit them at the end, or drop them after an exception."""
        emit, events = self.emit, list[Event]()
        self.emit = events.append
        try:
            yield
        finally:
            self.emit = emit
        for event in events:
            emit(event)

    def handle_debug(self, event: BaseEvent) -> bool:
        """Handle an event that is fired at debug level without building dbt's message, if possible.

        Returns:
            False where the message is needed; then nothing was done.
        """
        if self._muted:
            return True
        if self.debug or not (
            self._silent or (self.level > RANK["debug"] and not _always_shown(type(event).__name__))
        ):
            return False
        if self._file is None or not self._file.accepts(event):
            return True
        record = self._file.render_debug(event)
        if record is None:
            return False
        self.record(record, now=type(event).__name__ in _BEFORE_A_WAIT)
        return True

    def __call__(self, msg: EventMsg) -> None:
        """Handle a message of dbt's event manager."""
        if self._muted:
            return
        info: Any = msg.info
        level = info.level
        if self._file is not None and (record := self._file.render(msg)) is not None:
            self.record(record)
        shown = (
            not self._silent
            and (RANK.get(level, 2) >= self.level or _is_print_event(msg))
            and self._filter(msg)
        )
        if shown:
            self.line(self._logger.create_line(msg), level=level)
        elif self.debug and info.msg:
            self._emit(DEBUG, env_scrubber(info.msg), level)  # masked as in dbt.log

    def line(self, text: str, *, level: str = "info") -> None:
        """Emit a text of dbt's console, one event per line, after everything that code wrote before."""
        self.flush_records()
        partial = "" if self.console is None else self.console.take_partial_line()
        for part in (partial + text).split("\n"):
            self._emit(LINE, part, level)

    def code_line(self, text: str, stream: str) -> None:
        """Emit a line that code wrote to ``stdout`` or ``stderr``."""
        self._emit(LINE, text, "info", stream if stream == STDERR else "")

    def record(self, text: str, *, now: bool = False) -> None:
        """Buffer a record of the log file.

        Args:
            now: emit it at once, with the buffered ones.
        """
        self._records.append(mask_while_opening(escaped(text)))
        if now or len(self._records) >= MAX_RECORDS:
            self.flush_records()

    def flush_records(self) -> None:
        """Emit the buffered records of the log file."""
        records: list[str] = []
        with contextlib.suppress(IndexError):
            while True:  # other threads may add records
                records.append(self._records.popleft())
        if records:
            self.emit(Event(kind=RECORD, run_id=self.run_id, text=encode_records(records).decode()))

    def _emit(self, kind: str, text: str, level: str, stream: str = "") -> None:
        self.emit(
            Event(kind=kind, run_id=self.run_id, node=self.step, text=mask_while_opening(escaped(text)), level=level,
                  attempt=self.attempt, at=time.time(), worker=self.worker, stream=stream)
        )  # fmt: skip
