"""Normalizes values that differ between any two runs of the same command, so that they can be compared.

No value is skipped, and no line but `HINTS_BY_TIME`. Each value is replaced by a placeholder, with the same rules on both sides:

- a time between start and end of command 2 on that side becomes ``<during 2>``. Any other time, such as a
  business date, is kept. A time without a zone is tried as UTC and as this machine's local time;
- the invocation id of command 2 becomes ``<invocation 2>``;
- a duration becomes ``<duration>``; the side's folder and database become ``<side>`` and ``<database>``;
- a node's number in dbt's lines (``3 of 9``) becomes ``#``: dbt numbers nodes as its threads take them. In a
  build with unit tests the 9 becomes ``#`` too, because dbt changes it as it takes nodes from the queue
  (dbt.task.build.BuildTask.handle_job_queue);
- the stamp in a temporary relation's name becomes ``<stamp>``, and so does the name of an index on Postgres, a
  hash over the time (postgres__get_create_index_sql).
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

HINTS_BY_TIME = (
    "[HINT] Your parse is taking a long time. ",
    "[HINT] You're rebuilding a lot from scratch. ",
)
"""Starts of hints (dbt.hints, dbt-core >= 1.12) that are not compared, because time decides whether dbt shows them.

The first depends on how long a parse took. dbt shows each hint at most once a week for a home folder, and both sides
have the same one: the side that runs first shows the hint, the other does not.
"""


@dataclass
class Window:
    """Start and end of a command on a side (seconds since the epoch), and its invocation id."""

    began: float
    ended: float
    invocation_id: str | None = None


@dataclass
class Rules:
    """The rules of one side, with its folder, database and commands."""

    folder: str
    database: str = ""
    windows: list[Window] = field(default_factory=list)
    zones: tuple[tzinfo | None, ...] = (timezone.utc, None)
    """Zones that are tried for a time without one; None is this machine's local time."""

    def during(self, moment: float, *, whole: bool) -> str | None:
        """Return ``<during n>`` for a time in the n-th command, else None. `whole`: it has no fraction of a second."""
        for number, window in enumerate(self.windows, 1):
            began = int(window.began) if whole else window.began - 0.001
            if began <= moment <= window.ended + 0.001:
                return f"<during {number}>"
        return None

    def text(self, text: str) -> str:
        """Replace times, ids, paths and stamps in a text."""
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
        """Normalize a line of dbt's console."""
        line = _CLOCK.sub(r"\1<time>", line)
        line = _DURATION.sub("<duration>", line)
        line = _NUMBER.sub(r"\1# of \2 ", line)
        # dbt pads with dots to a fixed width: a longer number means fewer dots, or none
        return _PADDING.sub(" ... [", self.text(line))

    def value(self, value: Any) -> Any:
        """Normalize a value of a column or of an artifact, recursively."""
        if isinstance(value, str):
            return _THREAD.sub("Thread-# (worker)", self.text(value))
        if isinstance(value, date):
            seen = self._moment(value, whole=value.microsecond == 0) if isinstance(value, datetime) else None
            return seen or value.isoformat()
        if isinstance(value, memoryview):  # psycopg2's bytea, whose repr has an address
            return bytes(value)
        if isinstance(value, (dict, list, tuple)):
            return self._all(value)
        return value

    def _all(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value]


def _zone(text: str | None) -> tzinfo | None:
    """Parse a zone: ``Z``, ``+02``, ``-03:30``; None for an empty text."""
    if not text:
        return None
    if text == "Z":
        return timezone.utc
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(offset if text[0] == "+" else -offset)
