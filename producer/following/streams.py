"""Writes to standard streams that may be closed, full or without a reader: the command goes on, as dbt does."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

_REFUSALS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})


def is_refusal(error: OSError) -> bool:
    """Whether `error` means that a standard stream cannot be written (any more)."""
    return error.errno in _REFUSALS and error.filename is None


def open_missing() -> None:
    """Open the null device for each standard stream that this process was started without (``>&-``).

    Otherwise ``sys.stdout`` is None, and the next file or socket gets the stream's file descriptor.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def write(stream: TextIO | None, text: str) -> None:
    """Write `text` at once.

    Raises:
        OSError: the stream cannot be written (any more). Later writes are lost without an error.
    """
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        redirect_to_null(stream)
        raise
    except ValueError:  # closed
        return


def say(stream: TextIO | None, line: str) -> None:
    """Write a line at once, without an error where the stream cannot be written."""
    with suppress(OSError):
        write(stream, f"{line}\n")


def redirect_to_null(stream: TextIO) -> None:
    """Point the stream at the null device: otherwise flushing its buffer fails again, at the latest at exit."""
    with suppress(OSError, ValueError):  # no file behind it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
