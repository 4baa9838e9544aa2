"""Runs a command with plain dbt and with dbt-relay, each on its own copy, and compares the outcomes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from workers.verify.compare import Allowance, Compared, Difference, compare
from workers.verify.sides import Outcome, Side


@dataclass(frozen=True)
class Command:
    """A dbt command that both sides run.

    Attributes:
        words: its arguments, without the word ``dbt``.
        env: variables added to the side's environment.
        target: target folder of the command, relative to the project.
        order: see `compare.Allowance`.
        skip_lines: see `compare.Allowance`.
    """

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    target: str = "target"
    order: bool = False
    skip_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"dbt {shlex.join(self.words)}"


@dataclass
class Report:
    """Totals of the comparison, and every difference with its command."""

    commands: int = 0
    nodes: int = 0
    relations: int = 0
    differences: list[tuple[str, Difference]] = field(default_factory=list)

    def add(self, command: Command, seen: Compared) -> None:
        """Add the comparison of a command."""
        self.commands += 1
        self.nodes += seen.nodes
        self.relations += seen.relations
        self.differences.extend((str(command), difference) for difference in seen.differences)

    def __str__(self) -> str:
        return (
            f"{_many(self.commands, 'command')}, {_many(self.nodes, 'node result')}, "
            f"{_many(self.relations, 'relation')} compared: {_many(len(self.differences), 'difference')}"
        )


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass
class Pair:
    """The two sides of a sequence of commands."""

    plain: Side
    relay: Side
    allowance: Allowance = field(default_factory=Allowance)

    def run(self, command: Command) -> tuple[Outcome, Outcome, Compared]:
        """Run a command on both sides at once. Returns plain dbt's outcome, dbt-relay's, and the comparison."""
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(self.plain.run, command.words, command.env, command.target)
            relay = self.relay.run(command.words, command.env, command.target)
            plain = running.result()
        allowance = replace(
            self.allowance,
            order=command.order,
            skip_lines=(*self.allowance.skip_lines, *command.skip_lines),
        )
        return plain, relay, compare(plain, relay, (self.plain.rules, self.relay.rules), allowance)
