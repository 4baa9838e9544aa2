"""Captures what the code of a step writes to stdout and stderr, as lines of the run.

dbt's own lines are events. In addition, Python models, plugins and macros print, warn, log, write to file
descriptors, and start programs that inherit them. While a step executes, descriptors 1 and 2 are pipes that a thread
of this process reads.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import fcntl
import io
import logging
import os
import select
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, TextIO, cast

from workers.contract.log import log

_PIPE_BYTES = 1024 * 1024
"""The most that Linux allows an unprivileged process (``/proc/sys/fs/pipe-max-size``). Code that writes more than
this at once while it holds the GIL deadlocks: the reading thread needs the GIL, too."""

_READ_BYTES = 65536
_LIBC = ctypes.CDLL(None)
OnLine = Callable[[str, str], None]
"""Called with a line and its stream, ``stdout`` or ``stderr``."""


class _CapturedStream:
    """A file descriptor that is redirected to a pipe. Text is UTF-8; other bytes become ``\\xff`` escapes."""

    def __init__(self, name: str, number: int, on_line: OnLine, drain: Callable[[], None]) -> None:
        self.name, self.rest, self.ended = name, "", False
        self._number, self._on_line = number, on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        with contextlib.suppress(
            OSError, AttributeError
        ):  # not on Linux, or the user has too many large pipes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._saved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        os.dup2(writing, number)
        os.close(writing)
        self.text = io.TextIOWrapper(
            io.BufferedWriter(cast(Any, _DrainedFile(number, drain))), encoding="utf-8",
            errors="strict" if name == "stdout" else "backslashreplace", line_buffering=True,
        )  # fmt: skip

    def read(self) -> None:
        """Report the lines that are in the pipe, without waiting for more."""
        while not self.ended:
            try:
                data = os.read(self.reading, _READ_BYTES)
            except BlockingIOError:
                return
            self.ended = not data
            *lines, self.rest = (self.rest + self._decoder.decode(data)).split("\n")
            for line in lines:
                self._on_line(line, self.name)

    def restore(self) -> None:
        """Point the descriptor to its original file again."""
        os.dup2(self._saved, self._number)
        os.close(self._saved)

    def end(self) -> None:
        """Report the remaining lines, including a last one without newline, and close the pipe."""
        self.read()
        rest = self.rest + self._decoder.decode(b"", final=True)
        if rest:
            self._on_line(rest, self.name)
        if self.ended:
            os.close(self.reading)
        else:  # a program that outlives the step may still write: SIGPIPE must not kill it
            threading.Thread(target=_discard, args=(self.reading,), name="discard", daemon=True).start()


class _DrainedFile(io.FileIO):
    """A descriptor that drains all streams before and after each write, which keeps the order of lines."""

    def __init__(self, number: int, drain: Callable[[], None]) -> None:
        super().__init__(number, "w", closefd=False)
        self._drain = drain

    def write(self, data: Any) -> int:
        """See `io.RawIOBase`."""
        self._drain()
        written = super().write(data)
        self._drain()
        return written


class StepConsole:
    """Context manager that captures stdout and stderr of this process.

    Lines of one stream keep their order. Between the two streams, lines keep the order of the calls as long as code
    writes to Python's `sys.stdout` and `sys.stderr`.
    """

    def __init__(self, on_line: OnLine) -> None:
        """
        Args:
            on_line: called with each line, from the writing thread or from the reading thread.
        """
        self._on_line = on_line
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self.streams: tuple[_CapturedStream, ...] = ()

    def __enter__(self) -> StepConsole:
        self._before: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        _flush(*self._before, sys.__stdout__, sys.__stderr__)
        for name, number in (("stdout", 1), ("stderr", 2)):
            self.streams += (_CapturedStream(name, number, self._on_line, self.drain),)
        sys.stdout, sys.stderr = (stream.text for stream in self.streams)
        _reader().read(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        captured = (stream.text for stream in self.streams)
        _flush(sys.stdout, sys.stderr, *captured, sys.__stdout__, sys.__stderr__)
        sys.stdout, sys.stderr = self._before
        for stream in self.streams:
            stream.restore()
        with self._lock:  # afterwards the reading thread has no streams to read
            ended, self.streams = self.streams, ()
            for stream in ended:
                stream.end()

    def drain(self) -> None:
        """Report the lines that were written so far."""
        if os.getpid() != self._owner:  # a forked child writes into the same pipes; its parent reads them
            return
        with self._lock:
            for stream in self.streams:
                stream.read()

    def take_partial_line(self) -> str:
        """Report the lines that were written so far, and return the incomplete last line of stdout."""
        if not self.streams:
            return ""
        out = self.streams[0]
        with contextlib.suppress(ValueError):  # code may have closed it
            out.text.flush()  # not under the lock: a write takes the stream's lock first, then this one
        self.drain()
        with self._lock:
            rest, out.rest = out.rest, ""
        return rest


class _Reader:
    """The thread that reads the pipes of the executing step.

    A process has one reader for all its steps: starting and joining a thread per step costs more than the reading.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._console: StepConsole | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        threading.Thread(target=self._work, name="console", daemon=True).start()

    def read(self, console: StepConsole) -> None:
        """Read the pipes of `console` from now on."""
        self._console = console
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes up anyway
            os.write(self._wake, b"x")

    def _work(self) -> None:
        while True:
            console, poll = self._console, select.poll()
            poll.register(self._woken, select.POLLIN)
            for stream in () if console is None else console.streams:
                if not stream.ended:
                    poll.register(stream.reading, select.POLLIN)
            # The step may end meanwhile, and its descriptor numbers may be closed or reused. Then this thread wakes
            # up once without need. Only `drain` reads, and it knows which streams are open.
            if any(number == self._woken for number, _ in poll.poll()):
                os.read(self._woken, 4096)
            try:
                if console is not None:
                    console.drain()
            except Exception as error:  # noqa: BLE001 - without this thread, steps would block on a full pipe
                log("lines of a step lost", error=str(error), exc_info=True)


_readers: list[_Reader] = []


def _reader() -> _Reader:
    if not _readers or _readers[0].owner != os.getpid():  # a forked child has no reader thread
        _readers[:] = [_Reader()]
    return _readers[0]


@contextlib.contextmanager
def default_logging() -> Iterator[None]:
    """Send logging and warnings to stderr, as in a dbt process, instead of the worker's log.

    In a dbt process, snowplow_tracker (usage statistics) calls ``logging.basicConfig()``. In a worker, Celery has set
    other handlers and captures warnings in its log.
    """
    root, captured = logging.getLogger(), warnings.showwarning.__module__ == "logging"
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    if "snowplow_tracker" in sys.modules:
        logging.basicConfig(level=logging.WARNING)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(False)
    try:
        yield
    finally:
        logging.captureWarnings(captured)
        root.handlers[:] = handlers
        root.setLevel(level)


def _flush(*streams: IO[str] | None) -> None:
    """Flush Python's streams and C's stdio buffers."""
    for stream in streams:
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    _LIBC.fflush(None)


def _discard(reading: int) -> None:
    os.set_blocking(reading, True)
    with contextlib.suppress(OSError):
        while os.read(reading, _READ_BYTES):
            pass
    os.close(reading)
