"""Sequences of dbt commands and changes between them, compared with `workers.verify`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from workers.verify import pair
from workers.verify.sides import Side

MOST_SHOWN = 20


@dataclass(frozen=True)
class Dbt:
    """A dbt command, ``Dbt("run --select m")``, run on both sides.

    Attributes:
        args: its arguments, as a shell line or a list.
        exit_code: the exit code that plain dbt must have, so that a sequence tests what it is meant to.
        env, target, order, skip_lines: see `workers.verify.pair.Command`.
    """

    args: str | Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    target: str = "target"
    exit_code: int = 0
    order: bool = False
    skip_lines: tuple[str, ...] = ()

    @property
    def command(self) -> pair.Command:
        """The command for `workers.verify`."""
        words = shlex.split(self.args) if isinstance(self.args, str) else list(self.args)
        return pair.Command(tuple(words), self.env, self.target, self.order, self.skip_lines)


@dataclass(frozen=True)
class Change:
    """A change between two commands, on both sides."""

    what: str
    make: Callable[[Side], None]


def edit(path: str, old: str, new: str) -> Change:
    """Replace a text in a file of the project."""

    def make(side: Side) -> None:
        file = side.project / path
        text = file.read_text()
        if old not in text:
            raise AssertionError(f"{path} has no {old!r}")
        file.write_text(text.replace(old, new))

    return Change(f"edit {path}", make)


def write(path: str, text: str) -> Change:
    """Write a file of the project."""

    def make(side: Side) -> None:
        file = side.project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return Change(f"write {path}", make)


def remove(path: str) -> Change:
    """Delete a file of the project."""
    return Change(f"remove {path}", lambda side: (side.project / path).unlink())


def sql(statement: str) -> Change:
    """Execute a statement in the warehouse, outside of dbt."""
    return Change(statement, lambda side: side.warehouse.execute(statement))


Step = Dbt | Change


@dataclass
class Report(pair.Report):
    """Also has the commands for which plain dbt had an unexpected exit code."""

    name: str = ""
    surprises: list[str] = field(default_factory=list)
    """Commands for which plain dbt's exit code was not the expected one."""

    def __str__(self) -> str:
        shown = self.differences[: 3 * MOST_SHOWN]
        lines = [f"  {command}: {difference}" for command, difference in shown]
        return "\n".join([f"{self.name}: {super().__str__()}", *lines, *self.surprises])


class Counts(NamedTuple):
    """How much sequences compared, for the summary of a test session."""

    about: str
    commands: int
    nodes: int
    relations: int
    differences: int
    sequences: int = 1

    @classmethod
    def of(cls, about: str, report: Report) -> Counts:
        """Counts of a sequence."""
        return cls(about, report.commands, report.nodes, report.relations, len(report.differences))

    def __str__(self) -> str:
        return (
            f"{self.about}: {self.sequences} sequences, {self.commands} commands, {self.nodes} node results, "
            f"{self.relations} relations compared: {self.differences} differences"
        )


def sum_counts(counts: Iterable[Counts]) -> list[Counts]:
    """Sum the counts by project and warehouse."""
    sums: dict[str, Counts] = {}
    for each in counts:
        before = sums.get(each.about)
        numbers = zip(before[1:], each[1:], strict=True) if before else ((0, number) for number in each[1:])
        sums[each.about] = Counts(each.about, *(one + other for one, other in numbers))
    return [sums[about] for about in sorted(sums)]


FINISHED: list[Counts] = []
"""Counts of finished sequences that `conftest` has not reported yet."""


@dataclass
class Pair(pair.Pair):
    """The two sides of a sequence of commands and changes.

    Attributes:
        about: project and warehouse.
    """

    about: str = ""

    def play(self, name: str, steps: Iterable[Step]) -> Report:
        """Run all steps on both sides and compare after each command."""
        report = Report(name=name)
        for step in steps:
            if isinstance(step, Change):
                step.make(self.plain)
                step.make(self.relay)
                continue
            command = step.command
            plain, relay, seen = self.run(command)
            if plain.return_code != step.exit_code:
                report.surprises.append(
                    f"plain {command} ended with {plain.return_code}, not {step.exit_code}:\n"
                    + "\n".join(plain.lines[-25:])
                    + plain.stderr
                )
                print(report.surprises[-1])
            report.add(command, seen)
            print(f"{command}: {len(seen.differences)} differences", flush=True)
            for difference in seen.differences[:MOST_SHOWN]:
                print(f"  {difference}", flush=True)
            if seen.differences and relay.stderr:
                print(f"  stderr of dbt-relay: {relay.stderr}")
        FINISHED.append(Counts.of(self.about, report))
        return report


def play(pair: Pair, name: str, *steps: Step) -> None:
    """Run a sequence; the test fails if there is a difference."""
    check(pair.play(name, steps))


def check(*reports: Report) -> None:
    """Print the reports; the test fails if there is a difference."""
    text = "\n".join(str(report) for report in reports)
    if any(report.differences or report.surprises for report in reports):
        pytest.fail(text, pytrace=False)
    print(text)
