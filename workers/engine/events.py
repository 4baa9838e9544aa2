"""dbt's structured events as our events: the very lines that dbt would print, and who said them."""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from dbt.events.logging import _line_format_from_str
from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
from dbt_common.events.event_manager import EventManager
from dbt_common.events.event_manager_client import ctx_set_event_manager, get_event_manager
from dbt_common.events.functions import get_stdout_config
from dbt_common.events.logger import LineFormat, _is_print_event, _JsonLogger, _Logger, _TextLogger

from workers.contract.events import DEBUG, LINE, Event
from workers.engine.patches import registry

_RANK = {level.value: rank for rank, level in enumerate(
    (EventLevel.TEST, EventLevel.DEBUG, EventLevel.INFO, EventLevel.WARN, EventLevel.ERROR))}  # fmt: skip


class QuietManager(EventManager):
    """dbt's event manager, which makes no message of a debug event that nobody would hear.

    Some hundred of them are fired around each node. Everything that does more than pass a message on
    (loggers, warnings as errors) is dbt's.
    """

    def fire_event(self, e: BaseEvent, level: EventLevel | None = None, *args: Any, **kwargs: Any) -> None:
        """See `EventManager.fire_event`."""
        if not self.loggers and (level or e.level_tag()) == EventLevel.DEBUG:
            force = args[1] if len(args) > 1 else kwargs.get("force_warn_or_error_handling")
            if not force and all(getattr(each, "deaf_to", _hears)(e) for each in self.callbacks):
                return
        super().fire_event(e, level, *args, **kwargs)


def _hears(_: BaseEvent) -> bool:
    return False


def use_quiet_manager() -> None:
    """Make dbt's event manager of this process a `QuietManager`."""
    if registry.enabled("debug-events") and not isinstance(get_event_manager(), QuietManager):
        ctx_set_event_manager(QuietManager())


@functools.cache
def _always_shown(name: str) -> bool:
    named: Any = SimpleNamespace(info=SimpleNamespace(name=name))
    return bool(_is_print_event(named))


class LineSink:
    """Callback for dbt's event manager that turns events into lines.

    Formatting, level and colours are dbt's own logger's, so that a line is what dbt would print.
    """

    def __init__(
        self,
        flags: Any,
        run_id: str,
        step: str,
        emit: Callable[[Event], None],
        *,
        scrub: Callable[[str], str],
        debug: bool = False,
        attempt: int = 0,
        worker: str = "",
    ) -> None:
        self.run_id, self.step, self.emit = run_id, step, emit
        self.scrub, self.debug, self.attempt, self.worker = scrub, debug, attempt, worker
        self.level = _RANK["info"]
        self._silent = False
        self._muted = False
        self._logger: _Logger
        self.configure(flags)

    def configure(self, flags: Any | None) -> None:
        """Take format and level from dbt's flags (None before they are known: dbt's defaults)."""
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
        self.level = _RANK[level.value]
        self._filter = config.filter
        self._logger = _JsonLogger(config) if line_format == LineFormat.Json else _TextLogger(config)

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Say nothing of what this process only repeats for itself."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def deaf_to(self, event: BaseEvent) -> bool:
        """Whether nothing would come of a message of this event, which is fired at debug level."""
        if self._muted:
            return True
        return not self.debug and (
            self._silent or (self.level > _RANK["debug"] and not _always_shown(type(event).__name__))
        )

    def __call__(self, msg: EventMsg) -> None:
        """dbt's callback."""
        if self._muted:
            return
        info: Any = msg.info
        level = info.level
        shown = (
            not self._silent
            and (_RANK.get(level, 2) >= self.level or _is_print_event(msg))
            and self._filter(msg)
        )
        if shown:
            self.line(self._logger.create_line(msg), level=level)
        elif self.debug and info.msg:
            self._emit(DEBUG, info.msg, level)

    def line(self, text: str, *, level: str = "info") -> None:
        """Say a text as dbt's console would show it, one event a line."""
        for part in text.split("\n"):
            self._emit(LINE, part, level)

    def _emit(self, kind: str, text: str, level: str) -> None:
        self.emit(
            Event(kind=kind, run_id=self.run_id, node=self.step, text=self.scrub(text), level=level,
                  attempt=self.attempt, at=time.time(), worker=self.worker)
        )  # fmt: skip


class StdoutLines(io.TextIOBase):
    """A stdout for what dbt writes without an event (tables of ``seed --show``, a macro's debug)."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink
        self._rest = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Pass on whole lines; keep the rest for the next call."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._sink.line(line)
        return len(text)

    def close(self) -> None:
        """Pass on what is left."""
        if self._rest:
            self._sink.line(self._rest)
            self._rest = ""
        super().close()
