"""What may differ between two runs of the same command, and by which rule it is compared all the same.

Nothing is left out. A value that has to differ is replaced by what it stands for, on both sides by the
same rule, and the replacements are compared:

- a time inside a command's window (first to last moment of the command on that side) is ``<during 2>``;
  any other time, a business date say, stays as it is;
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
from datetime import date, datetime, timezone
from typing import Any

_TIME = re.compile(
    r"(?<![\d.])\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?P<fraction>\.\d{1,9})?(?:Z|[+-]\d\d(?::?\d\d)?)?(?!\d)"
)
_DURATION = re.compile(r"\d+(?:\.\d+)?(?= ?s(?:econds)?\b)|\d+(?= (?:hours?|minutes?) )")
_STAMP = re.compile(r"(?<=__dbt_tmp)_?\d{12,}|(?<=index if not exists\n  \")[0-9a-f]{32}(?=\")")
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
            moment = datetime.strptime(plain, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
        except ValueError:
            return shown
        whole = match.group("fraction") is None
        return self.during(moment.timestamp(), whole=whole) or shown

    def line(self, line: str) -> str:
        """A line of dbt's console."""
        line = _CLOCK.sub(r"\1<time>", line)
        line = _DURATION.sub("<duration>", line)
        line = _NUMBER.sub(r"\1# of \2 ", line)
        # dbt pads with dots up to a fixed width, so a longer name or duration means fewer dots
        return re.sub(r"\.{3,}", "...", self.text(line))

    def value(self, value: Any) -> Any:
        """A value of a warehouse's column, or of an artifact, all levels down."""
        if isinstance(value, str):
            return _THREAD.sub("Thread-# (worker)", self.text(value))
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            seen = self.during(aware.timestamp(), whole=value.microsecond == 0)
            return seen or value.isoformat()
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value
