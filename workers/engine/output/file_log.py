"""Renders the records of dbt's log file, ``logs/dbt.log``, as dbt's file logger would write them.

A worker does not write the file: it belongs to the caller's project, perhaps on another machine, and several
processes execute one run. Workers publish the records (`workers.runs.progress`), and the caller writes them in the
order in which they reached Redis (`producer.following.file_log`).
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dbt.events.logging
from dbt.events.logging import _NOFILE_CODES, _get_logfile_config, _line_format_from_str
from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
from dbt_common.events.logger import (
    LineFormat,
    LoggerConfig,
    _is_print_event,
    _JsonLogger,
    _Logger,
    _TextLogger,
)
from dbt_common.exceptions import base as exceptions

RANK = {level.value: rank for rank, level in enumerate(
    (EventLevel.TEST, EventLevel.DEBUG, EventLevel.INFO, EventLevel.WARN, EventLevel.ERROR))}  # fmt: skip

_NEVER_IN_FILE = frozenset({"CacheAction", "CacheDumpGraph"})  # dbt.events.logging._logfile_filter


@functools.cache
def _goes_to_file(kind: type[BaseEvent]) -> bool:
    code = kind.code(None)  # type: ignore[arg-type] # `code` returns a constant and ignores `self`
    return kind.__name__ not in _NEVER_IN_FILE and code not in _NOFILE_CODES


class FileRecords:
    """Renders dbt's events as records of the log file. Safe to call from several threads."""

    def __init__(self, flags: Any) -> None:
        """
        Args:
            flags: dbt's flags; they set level, format and colours as in dbt.events.logging.setup_event_logger.
        """
        self._level = EventLevel.DEBUG if flags.DEBUG else EventLevel(flags.LOG_LEVEL_FILE)
        line_format = _line_format_from_str(flags.LOG_FORMAT_FILE, LineFormat.DebugText)
        config = _get_logfile_config("", flags.USE_COLORS_FILE, line_format, self._level, 0)
        self._filter = config.filter
        json = line_format == LineFormat.Json
        text = _TextLogger(config)
        self._logger: _Logger = _JsonLogger(config) if json else text
        self._start = text._get_color_tag()
        self.includes_debug = self._level in (EventLevel.DEBUG, EventLevel.TEST)
        self._plain = line_format == LineFormat.DebugText
        self._second, self._clock = 0, ""

    def render(self, msg: EventMsg) -> str | None:
        """Render a message with dbt's logger. None where the log file has no record of it."""
        level = RANK.get(msg.info.level, 2)
        if (level < RANK[self._level.value] and not _is_print_event(msg)) or not self._filter(msg):
            return None
        return self._logger.create_line(msg)

    def accepts(self, event: BaseEvent) -> bool:
        """Whether the log file has a record of this debug event."""
        return self.includes_debug and _goes_to_file(type(event))  # type: ignore[arg-type] # types are hashable

    def render_debug(self, event: BaseEvent) -> str | None:
        """Render a debug event without building dbt's message, which costs 30 times as much.

        Returns:
            None where the file's format needs that message.
        """
        if not self._plain:
            return None
        now = time.time()
        second = int(now)
        if second != self._second:
            self._clock = time.strftime("%H:%M:%S", time.localtime(second))
            self._second = second
        # as dbt_common.events.logger._TextLogger.create_debug_line
        thread = threading.current_thread().name[:10].ljust(10)
        micros = int((now - second) * 1e6)
        text = exceptions.scrub_secrets(event.message(), exceptions.env_secrets())
        return f"{self._start}{self._clock}.{micros:06} [debug] [{thread}]: {text}"


def file_records(flags: Any) -> FileRecords | None:
    """Renderer of the log file for these flags; None where dbt writes no log file."""
    return None if flags.LOG_LEVEL_FILE == "none" else FileRecords(flags)


class _RecordStream(io.TextIOBase):
    """Stream for a logging handler, which writes each record with one call."""

    def __init__(self, record: Callable[[str], None]) -> None:
        self._record = record

    def write(self, text: str) -> int:
        self._record(text.removesuffix("\n"))
        return len(text)


@contextlib.contextmanager
def divert_log_file(record: Callable[[str], None]) -> Iterator[None]:
    """Pass the log file records of dbt's programmatic interface to `record`, and write no file."""

    def config(*args: Any, **kwargs: Any) -> LoggerConfig:
        made = _get_logfile_config(*args, **kwargs)
        made.output_file_name = None
        made.output_stream = _RecordStream(record)  # type: ignore[assignment]
        return made

    make_folder = dbt.events.logging.make_log_dir_if_missing
    dbt.events.logging._get_logfile_config = config
    dbt.events.logging.make_log_dir_if_missing = lambda log_path: None  # noqa: ARG005 - dbt's name
    try:
        yield
    finally:
        dbt.events.logging._get_logfile_config = _get_logfile_config
        dbt.events.logging.make_log_dir_if_missing = make_folder
