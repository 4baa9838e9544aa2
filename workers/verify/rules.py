"""What may differ between two runs of the same command, and by which rule it is compared all the same.

Nothing is left out. A value that has to differ is replaced by what it stands for, on both sides by the
same rule, and the replacements are compared:

- a time inside a command's window (first to last moment of the command on that side) is ``<during 2>``;
  any other time, a business date say, stays as it is. A time that names no zone is read as UTC, and as
  this machine's own time;
- the invocation id of command 2 is ``<invocation 2>``;
- a duration is ``<duration>``; the side's own folder and database are ``<side>`` and ``<database>``;
- a node's number in dbt's lines (``3 of 9``) is ``#``: dbt numbers nodes as its threads get to them; so is
  the 9 of a build with unit tests, which dbt counts again for each node that it takes before one has a
  number (dbt.task.build.BuildTask.handle_job_queue);
- the stamp in a temporary relation's name is ``<stamp>``, and so is the name of an index on PostgreSQL, a
  hash over the moment (postgres__get_create_index_sql).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any

_TIME = re.compile(
    r"(?<![\d.])\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?P<fraction>\.\d{1,9})?"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?(?!\d)"
)
_DURATION = re.compile(r"\d+(?:\.\d+)?(?= ?s(?:econds)?\b)|\d+(?= (?:hours?|minutes?) )")
_STAMP = re.compile(r"(?<=__dbt_tmp)_?\d{12,}|(?<=index if not exists\n  \")[0-9a-f]{32}(?=\")")
_PADDING = re.compile(r" \.* \[")
_NUMBER = re.compile(r"(^|\s)\d+ of (\d+) ")
_CLOCK = re.compile(r"^((?:\x1b\[[\d;]*m)*)\d\d:\d\d:\d\d(?:\.\d+)?(?= |$)")
_THREAD = re.compile(r"Thread-\d+ \(worker\)")


@dataclass
class Window:
    """When a command ran on a side, seconds since the epoch, and under which invocation id."""

    began: float
    ended: float
    invocation_id: str | None = None


@dataclass
class Rules:
    """The replacements of one side."""

    folder: str
    database: str = ""
    windows: list[Window] = field(default_factory=list)
    zones: tuple[tzinfo | None, ...] = (timezone.utc, None)
    """What a time without a zone may mean; None is this machine's own."""

    def during(self, moment: float, *, whole: bool) -> str | None:
        """``<during n>`` for a time inside the n-th command; `whole` when its fraction was cut off."""
        for number, window in enumerate(self.windows, 1):
            began = int(window.began) if whole else window.began - 0.001
            if began <= moment <= window.ended + 0.001:
                return f"<during {number}>"
        return None

    def text(self, text: str) -> str:
        """A text with times, ids, paths and stamps replaced."""
        text = text.replace(self.folder, "<side>")
        if self.database:
            text = text.replace(self.database, "<database>")
        for number, window in enumerate(self.windows, 1):
            if window.invocation_id:
                text = text.replace(window.invocation_id, f"<invocation {number}>")
        text = _STAMP.sub("<stamp>", text)
        return _TIME.sub(self._time, text)

    def _time(self, match: re.Match[str]) -> str:
        shown = match.group(0)
        fraction = (match.group("fraction") or ".0")[:7]
        plain = shown[:19].replace("T", " ") + "." + fraction[1:].ljust(6, "0")
        try:
            moment = datetime.strptime(plain, "%Y-%m-%d %H:%M:%S.%f")  # noqa: DTZ007 - see below
            moment = moment.replace(tzinfo=_zone(match.group("zone")))
        except ValueError:
            return shown
        return self._moment(moment, whole=match.group("fraction") is None) or shown

    def _moment(self, moment: datetime, *, whole: bool) -> str | None:
        for zone in (moment.tzinfo,) if moment.tzinfo else self.zones:
            aware = moment.replace(tzinfo=zone) if zone else moment.replace(tzinfo=None).astimezone()
            seen = self.during(aware.timestamp(), whole=whole)
            if seen:
                return seen
        return None

    def line(self, line: str) -> str:
        """A line of dbt's console."""
        line = _CLOCK.sub(r"\1<time>", line)
        line = _DURATION.sub("<duration>", line)
        line = _NUMBER.sub(r"\1# of \2 ", line)
        # dbt pads with dots up to a fixed width, so a longer number means fewer dots, or none
        return _PADDING.sub(" ... [", self.text(line))

    def value(self, value: Any) -> Any:
        """A value of a warehouse's column, or of an artifact, all levels down."""
        if isinstance(value, str):
            return _THREAD.sub("Thread-# (worker)", self.text(value))
        if isinstance(value, date):
            seen = self._moment(value, whole=value.microsecond == 0) if isinstance(value, datetime) else None
            return seen or value.isoformat()
        if isinstance(value, memoryview):  # psycopg2's bytea, which shows its address
            return bytes(value)
        if isinstance(value, (dict, list, tuple)):
            return self._all(value)
        return value

    def _all(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value]


def _zone(text: str | None) -> tzinfo | None:
    """``Z``, ``+02``, ``-03:30`` as a zone; None for none."""
    if not text:
        return None
    if text == "Z":
        return timezone.utc
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(offset if text[0] == "+" else -offset)
