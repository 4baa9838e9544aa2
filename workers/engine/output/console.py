"""stdout and stderr of a step: what its code writes there, by whatever means, becomes lines of the run.

dbt's own lines are events. Beside them, Python models, plugins and macros print, warn and log, write to file
descriptors, and start programs that inherit these. For the time of a step, descriptors 1 and 2 are pipes, which a
thread of this process reads.
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
"""The most that Linux lets an unprivileged process ask for (``/proc/sys/fs/pipe-max-size``). Code that holds the GIL
while it writes more than that at once stops itself: the reading thread needs the GIL as well."""

_READ_BYTES = 65536
_LIBC = ctypes.CDLL(None)
Tell = Callable[[str, str], None]
"""Takes a line and its stream, ``stdout`` or ``stderr``."""


class _Stream:
    """One file descriptor, diverted to a pipe. Texts are UTF-8; other bytes become ``\\xff`` escapes."""

    def __init__(self, name: str, number: int, tell: Tell, drain: Callable[[], None]) -> None:
        self.name, self.rest, self.ended = name, "", False
        self._number, self._tell = number, tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        with contextlib.suppress(OSError, AttributeError):  # Linux; or the user has too many large pipes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._saved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        os.dup2(writing, number)
        os.close(writing)
        self.text = io.TextIOWrapper(
            io.BufferedWriter(cast(Any, _Ordered(number, drain))), encoding="utf-8",
            errors="strict" if name == "stdout" else "backslashreplace", line_buffering=True,
        )  # fmt: skip

    def read(self) -> None:
        """Tell the lines that are in the pipe; does not wait for any."""
        while not self.ended:
            try:
                data = os.read(self.reading, _READ_BYTES)
            except BlockingIOError:
                return
            self.ended = not data
            *lines, self.rest = (self.rest + self._decoder.decode(data)).split("\n")
            for line in lines:
                self._tell(line, self.name)

    def restore(self) -> None:
        """Give the descriptor back."""
        os.dup2(self._saved, self._number)
        os.close(self._saved)

    def end(self) -> None:
        """Tell what is left, a line without its newline too."""
        self.read()
        rest = self.rest + self._decoder.decode(b"", final=True)
        if rest:
            self._tell(rest, self.name)
        if self.ended:
            os.close(self.reading)
        else:  # a program that outlives the step still writes: it must not die of a broken pipe
            threading.Thread(target=_discard, args=(self.reading,), name="discard", daemon=True).start()


class _Ordered(io.FileIO):
    """A descriptor of which each write is told after all that was written before, and before all that follows."""

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
    """Diverts stdout and stderr of this process while it lasts.

    Lines come in the order in which they were written to one stream. Between the streams the order is that of
    the calls, as long as Python's own `sys.stdout` and `sys.stderr` are used.
    """

    def __init__(self, tell: Tell) -> None:
        """
        Args:
            tell: is called with each line, from the writing thread or from the reading one.
        """
        self._tell = tell
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self.streams: tuple[_Stream, ...] = ()

    def __enter__(self) -> StepConsole:
        self._before: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        _flush(*self._before, sys.__stdout__, sys.__stderr__)
        for name, number in (("stdout", 1), ("stderr", 2)):
            self.streams += (_Stream(name, number, self._tell, self.drain),)
        sys.stdout, sys.stderr = (stream.text for stream in self.streams)
        _reader().read(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        own = (stream.text for stream in self.streams)
        _flush(sys.stdout, sys.stderr, *own, sys.__stdout__, sys.__stderr__)
        sys.stdout, sys.stderr = self._before
        for stream in self.streams:
            stream.restore()
        with self._lock:  # afterwards the reading thread finds nothing to read
            ended, self.streams = self.streams, ()
            for stream in ended:
                stream.end()

    def drain(self) -> None:
        """Tell what was written so far."""
        if os.getpid() != self._owner:  # a fork writes into the same pipes; its parent reads them
            return
        with self._lock:
            for stream in self.streams:
                stream.read()

    def before_line(self) -> str:
        """Tell what was written so far; the begin of the line of stdout that is not complete yet, if any."""
        if not self.streams:
            return ""
        out = self.streams[0]
        with contextlib.suppress(ValueError):  # code may have closed it
            out.text.flush()  # not under the lock: writing takes the stream's own lock first, then this one
        self.drain()
        with self._lock:
            rest, out.rest = out.rest, ""
        return rest


class _Reader:
    """The thread that reads the pipes of the step that executes. Each process has one: to start a thread for each
    step, and to wait for its end, would take longer than all the rest."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._console: StepConsole | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        threading.Thread(target=self._work, name="console", daemon=True).start()

    def read(self, console: StepConsole) -> None:
        """Read the pipes of `console` from now on, as long as it has any."""
        self._console = console
        with contextlib.suppress(BlockingIOError):  # full: it will wake up
            os.write(self._wake, b"x")

    def _work(self) -> None:
        while True:
            console, poll = self._console, select.poll()
            poll.register(self._woken, select.POLLIN)
            for stream in () if console is None else console.streams:
                if not stream.ended:
                    poll.register(stream.reading, select.POLLIN)
            # A step may end meanwhile: its descriptors are closed, or are something else's by the time. Then this
            # wakes once for nothing. Only `drain` reads, and it knows what is open.
            if any(number == self._woken for number, _ in poll.poll()):
                os.read(self._woken, 4096)
            try:
                if console is not None:
                    console.drain()
            except Exception as error:  # noqa: BLE001 - without this thread, a step would wait when a pipe is full
                log("lines of a step lost", error=str(error), exc_info=True)


_readers: list[_Reader] = []


def _reader() -> _Reader:
    if not _readers or _readers[0].owner != os.getpid():  # none yet, or this process is a fork
        _readers[:] = [_Reader()]
    return _readers[0]


@contextlib.contextmanager
def default_logging() -> Iterator[None]:
    """Logging and warnings as a dbt process has them: on stderr, not in the worker's log.

    A library that dbt imports for its usage statistics calls ``logging.basicConfig()``; Celery takes warnings into
    its log.
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
    """Empty the buffers of Python's streams, and those of C's."""
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
