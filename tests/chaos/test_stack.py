"""Absences of stopped processes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.chaos.stack import Stack


def test_absence_starts_with_the_first_of_two_faults(tmp_path: Path) -> None:
    stack = Stack(tmp_path, lease=1, reap=1, env={})
    with subprocess.Popen(["sleep", "60"]) as process:
        stack.stop([process.pid])
        stopped = time.time()
        stack.stop([process.pid])
        stack.resume(process.pid)
        stack.resume(process.pid)
        process.kill()
    (absence,) = stack.absences[process.pid]
    assert absence.since <= stopped <= absence.until
