"""``python -m workers.verify``: started by ``dbt-relay verify`` in the project's folder.

The first line of standard input is a `VerifyJob`. The caller keeps standard input open; at its end this
process stops the commands and removes the copies.
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
    """Read the job and run it. Returns the exit code."""
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
    """Read the first line of standard input, unbuffered: a thread in a buffered read would block the exit."""
    read = b""
    while not read.endswith(b"\n"):
        more = os.read(STDIN, 65536)
        if not more:
            break
        read += more
    return read


def _stop_with_the_caller() -> None:
    """At the end of standard input, interrupt this process group: this process and the commands that it runs."""
    while os.read(STDIN, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
