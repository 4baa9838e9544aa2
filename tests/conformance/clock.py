"""The clock that a test set, in the process that executes: some classes replace dbt's idea of now.

They do it in their own process, with a mock or with freezegun. The runner writes what they set to a file;
workers are started with this module (`celery worker --include`) and read the file when they ask for the time.
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
    """Write down what the running test set, or nothing."""
    now = datetime.now(timezone.utc)
    told: dict[str, str] = {}
    replaced: Any = MicrobatchBuilder.build_end_time
    if isinstance(replaced, mock.Mock):
        told["batch_end"] = replaced.return_value.isoformat()
    frozen = sys.modules.get("freezegun.api")
    if frozen is not None and isinstance(now, frozen.FakeDatetime):
        told["now"] = now.isoformat()
    path.write_text(json.dumps(told))


def _told(name: str) -> datetime | None:
    text = json.loads(Path(os.environ[VARIABLE]).read_text()).get(name)
    return None if text is None else _real_datetime.fromisoformat(text)


def _end_time(builder: MicrobatchBuilder) -> datetime:
    return _told("batch_end") or _real_end_time(builder)


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        told = _told("now")
        return _real_datetime.now(tz) if told is None else told.astimezone(tz)


if VARIABLE in os.environ:  # a worker of a conformance run
    MicrobatchBuilder.build_end_time = _end_time
    sample_window.datetime = _Datetime
