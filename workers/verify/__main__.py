"""``python -m workers.verify``: started by ``dbt-relay verify`` in the project's folder.

The first line of standard input is a `VerifyJob`. Standard input stays open for as long as the one who
asked is there: at its end everything is stopped and thrown away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from workers.contract.errors import DbtUsageError
from workers.contract.verify_job import REFUSED, VerifyJob

STDIN = 0


def main() -> int:
    """Read the job and do it; the exit code."""
    from workers.verify.verification import verify

    job = msgspec.json.decode(_first_line(), type=VerifyJob)
    threading.Thread(target=_stop_with_the_caller, daemon=True).start()
    try:
        return verify(job, os.environ, sys.stdout)
    except DbtUsageError as error:
        sys.stderr.write(f"Error: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("dbt-relay: stopped; the copies are removed\n")
        return REFUSED


def _first_line() -> bytes:
    """Of standard input, unbuffered: a thread that waits in a buffered read cannot be left at the end."""
    read = b""
    while not read.endswith(b"\n"):
        more = os.read(STDIN, 65536)
        if not more:
            break
        read += more
    return read


def _stop_with_the_caller() -> None:
    """Interrupt this process and the commands that it runs, a process group of their own."""
    while os.read(STDIN, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
