"""Passes the time that a test has set to the workers: some classes replace dbt's current time.

They do it in their own process, with a mock or with freezegun. The runner writes that time to a file. Workers
are started with this module (`celery worker --include`) and read the file when dbt asks for the time.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

from dbt.event_time import sample_window
from dbt.materializations.incremental.microbatch import MicrobatchBuilder

VARIABLE = "RELAY_CONFORMANCE_CLOCK"
_real_end_time = MicrobatchBuilder.build_end_time
_real_datetime = datetime


def set_clock(path: Path) -> None:
    """Write the times that the running test has set."""
    now = datetime.now(timezone.utc)
    times: dict[str, str] = {}
    replaced: Any = MicrobatchBuilder.build_end_time
    if isinstance(replaced, mock.Mock):
        times["batch_end"] = replaced.return_value.isoformat()
    frozen = sys.modules.get("freezegun.api")
    if frozen is not None and isinstance(now, frozen.FakeDatetime):
        times["now"] = now.isoformat()
    path.write_text(json.dumps(times))


def _time_set(name: str) -> datetime | None:
    text = json.loads(Path(os.environ[VARIABLE]).read_text()).get(name)
    return None if text is None else _real_datetime.fromisoformat(text)


def _end_time(builder: MicrobatchBuilder) -> datetime:
    return _time_set("batch_end") or _real_end_time(builder)


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        frozen = _time_set("now")
        return _real_datetime.now(tz) if frozen is None else frozen.astimezone(tz)


if VARIABLE in os.environ:  # a worker of a conformance run
    MicrobatchBuilder.build_end_time = _end_time
    sample_window.datetime = _Datetime
