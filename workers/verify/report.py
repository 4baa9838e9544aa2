"""What a comparison says, as it goes on."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass
from typing import TextIO

from workers.verify.compare import Compared
from workers.verify.pair import Command, Report
from workers.verify.sides import Outcome

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
MOST_SHOWN = 20
LINES_SHOWN = 12


@dataclass
class Teller:
    """Writes to `out`. `again`: both sides are plain dbt."""

    out: TextIO
    again: bool = False

    def say(self, text: str = "") -> None:
        """A line, at once."""
        self.out.write(f"{text}\n")
        self.out.flush()

    def command(self, command: Command, plain: Outcome, relay: Outcome, seen: Compared) -> None:
        """What a command did, and what differs."""
        self.say(f"\n{command}")
        number = len(seen.differences)
        if not number:
            self.say(f"  equal: {_facts(plain, seen)}")
            for failure in _failures(plain):
                self.say(f"    the same on both sides: {failure}")
            if plain.gave_up:
                self._lines(plain)
            return
        self.say(f"  {number} difference{'s' if number > 1 else ''}; plain dbt: {_facts(plain, seen)}")
        for difference in seen.differences[:MOST_SHOWN]:
            self.say("  - " + difference.shown("again" if self.again else "relay").replace("\n", "\n  "))
        if number > MOST_SHOWN:
            self.say(f"  … and {number - MOST_SHOWN} more")
        if plain.return_code != relay.return_code:
            for name, outcome in (
                ("plain dbt", plain),
                ("plain dbt again" if self.again else "dbt-relay", relay),
            ):
                self.say(f"  {name} ended with {outcome.return_code}:")
                self._lines(outcome)

    def end(self, report: Report, left: int) -> None:
        """The last word. `left`: commands that were not run any more."""
        if report.differences:
            if left:
                what = "command was not run: it" if left == 1 else "commands were not run: they"
                self.say(f"\n{left} {what} would start from what differs already.")
            self.say(f"\nDifferent: {report}")
            if not self.again:
                self.say("Does plain dbt equal itself? dbt-relay verify --plain-twice … shows it.")
        else:
            self.say(f"\nEqual: {report}")

    def gave_up(self) -> None:
        """The last word after a command that dbt cannot do."""
        self.say("\nNothing to compare: plain dbt itself cannot do this, and dbt-relay says the same.")

    def _lines(self, outcome: Outcome) -> None:
        lines = [*outcome.lines, *outcome.stderr.splitlines()]
        for line in lines[-LINES_SHOWN:]:
            self.say(f"    {_COLOUR.sub('', line)}")


def _failures(outcome: Outcome, most: int = 3) -> list[str]:
    """What failed in plain dbt: an equal comparison of a broken run says little, and should not look whole."""
    results = (outcome.run_results or {}).get("results", [])
    failed = [each for each in results if each["status"] in ("error", "fail", "runtime error")]
    shown = [f"{each['unique_id']}: {' '.join(str(each['message']).split())[:200]}" for each in failed[:most]]
    return [*shown, f"{len(failed) - most} more that failed"] if len(failed) > most else shown


def _facts(outcome: Outcome, seen: Compared) -> str:
    results = (outcome.run_results or {}).get("results", [])
    statuses = collections.Counter(str(result["status"]) for result in results)
    shown = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    nodes = f"; {len(results)} nodes ({shown})" if results else ""
    return f"exit code {outcome.return_code}{nodes}; {seen.relations} relations, {seen.rows:,} rows"
