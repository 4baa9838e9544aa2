"""Prints the report of a comparison while it is running."""

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
class Reporter:
    """Prints the report to `out`."""

    out: TextIO
    plain_twice: bool = False
    """Whether plain dbt runs on both sides."""

    def line(self, text: str = "") -> None:
        """Print a line at once."""
        self.out.write(f"{text}\n")
        self.out.flush()

    def command(self, command: Command, plain: Outcome, relay: Outcome, seen: Compared) -> None:
        """Report the outcome of a command and its differences."""
        self.line(f"\n{command}")
        number = len(seen.differences)
        if not number:
            self.line(f"  equal: {_facts(plain, seen)}")
            for failure in _failures(plain):
                self.line(f"    the same on both sides: {failure}")
            if plain.gave_up:
                self._lines(plain)
            return
        self.line(f"  {number} difference{'s' if number > 1 else ''}; plain dbt: {_facts(plain, seen)}")
        for difference in seen.differences[:MOST_SHOWN]:
            self.line(
                "  - " + difference.shown("again" if self.plain_twice else "relay").replace("\n", "\n  ")
            )
        if number > MOST_SHOWN:
            self.line(f"  … and {number - MOST_SHOWN} more")
        if plain.return_code != relay.return_code:
            for name, outcome in (
                ("plain dbt", plain),
                ("plain dbt again" if self.plain_twice else "dbt-relay", relay),
            ):
                self.line(f"  {name} ended with {outcome.return_code}:")
                self._lines(outcome)

    def end(self, report: Report, left: int) -> None:
        """Report the result. `left`: number of commands that were not run."""
        if report.differences:
            if left:
                what = "command was not run: it" if left == 1 else "commands were not run: they"
                self.line(f"\n{left} {what} would start from copies that already differ.")
            self.line(f"\nDifferent: {report}")
            if not self.plain_twice:
                self.line("Does plain dbt equal itself? dbt-relay verify --plain-twice … shows it.")
        else:
            self.line(f"\nEqual: {report}")

    def gave_up(self) -> None:
        """Report that dbt itself cannot run a command."""
        self.line(
            "\nNothing to compare: plain dbt cannot run this command, and dbt-relay reports the same error."
        )

    def _lines(self, outcome: Outcome) -> None:
        lines = [*outcome.lines, *outcome.stderr.splitlines()]
        for line in lines[-LINES_SHOWN:]:
            self.line(f"    {_COLOUR.sub('', line)}")


def _failures(outcome: Outcome, most: int = 3) -> list[str]:
    """Nodes that failed in plain dbt. Equal failures are shown, because they prove little."""
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
