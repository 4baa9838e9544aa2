"""dbt's programmatic interface in a separate, persistent process, so that the measuring process does not import dbt.

    python -m benchmarks.inside PROJECT ARGUMENT …

For each line on stdin the process invokes the arguments once and writes a line. ``dbtRunner`` uses a partial parse;
``manifest`` is ``dbtRunner(manifest=…)`` with a manifest that was parsed before, and writes no artifacts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

WAYS = ("dbtRunner", "manifest")


@contextlib.contextmanager
def inside(
    project: Path, arguments: Sequence[str], environ: dict[str, str]
) -> Iterator[dict[str, Callable[[], None]]]:
    """Yield the ways by name. Each call is one invocation; it raises RuntimeError if dbt failed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inside", project, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip

    def call(way: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        print(way, file=process.stdin, flush=True)
        if (answer := process.stdout.readline()) != "done\n":
            raise RuntimeError(f"{way}: {answer or 'the process ended'}")

    try:
        yield {way: lambda way=way: call(way) for way in WAYS}  # type: ignore[misc]
    finally:
        process.communicate()


def serve(project: str, arguments: Sequence[str], answers: TextIO) -> None:
    """Serve invocations until stdin ends."""
    from dbt.cli.main import dbtRunner

    os.chdir(project)
    manifest = None
    for line in sys.stdin:
        if (way := line.strip()) == "manifest":
            manifest = manifest or dbtRunner().invoke(["parse"]).result
            done = dbtRunner(manifest=manifest).invoke(["--no-write-json", *arguments])  # type: ignore[arg-type]
        else:
            done = dbtRunner().invoke([*arguments])
        print("done" if done.success else f"{way} failed: {done.exception}", file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as out, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        serve(sys.argv[1], sys.argv[2:], out)
