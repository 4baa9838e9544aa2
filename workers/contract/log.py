"""dbt-relay's log: structured lines, as text on a terminal and as JSON elsewhere."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

NAME = "dbt_relay"
_FIELDS = ("run", "node", "attempt", "worker", "phase", "duration")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        plain: dict[str, Any] = {
            "at": round(record.created, 3), "level": record.levelname.lower(),
            "message": record.getMessage(),
        }  # fmt: skip
        plain.update(getattr(record, "fields", {}))
        if record.exc_info:
            plain["exception"] = self.formatException(record.exc_info)
        return json.dumps(plain, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.gmtime(record.created))
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        text = f"{clock} {record.levelname.lower():<7} {record.getMessage()}  {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@functools.cache
def own_stderr() -> TextIO:
    """Return this process's stderr with a descriptor of its own: during a step descriptor 2 is the caller's."""
    return os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")


def configure(format_name: str = "auto", level: str = "INFO", stream: TextIO | None = None) -> logging.Logger:
    """Configure dbt-relay's logger. A second call replaces the handler of the first.

    Args:
        format_name: ``text``, ``json``, or ``auto`` (text on a terminal).
        level: name of the lowest level that is logged.
        stream: where to write; None: stderr.
    """
    stream = stream or sys.stderr
    logger = logging.getLogger(NAME)
    text = format_name == "text" or (format_name == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Text() if text else _Json())
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    return logger


def log(message: str, *, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """Log one structured line. Fields that are None or empty are left out."""
    kept = {name: value for name, value in fields.items() if value not in (None, "")}
    ordered = {name: kept.pop(name) for name in _FIELDS if name in kept} | kept
    logging.getLogger(NAME).log(level, message, extra={"fields": ordered}, exc_info=exc_info)


@contextlib.contextmanager
def phase(name: str, **fields: Any) -> Iterator[None]:
    """Log how many seconds the block took, and whether it raised an exception."""
    began = time.perf_counter()
    try:
        yield
    except BaseException as error:
        took = round(time.perf_counter() - began, 4)
        log(f"{name} raised {type(error).__name__}", level=logging.DEBUG, phase=name, duration=took, **fields)
        raise
    log(name, level=logging.DEBUG, phase=name, duration=round(time.perf_counter() - began, 4), **fields)
