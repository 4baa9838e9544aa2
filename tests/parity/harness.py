"""A sequence of dbt commands, run by plain dbt and by dbt-relay, compared after each command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from tests.parity.compare import Allowance, Compared, Difference, compare
from tests.parity.sides import Outcome, Side

MOST_SHOWN = 20


@dataclass(frozen=True)
class Dbt:
    """A dbt command, ``Dbt("run --select m")``, run on both sides.

    Attributes:
        args: its arguments, a shell line or a list.
        env: environment on top of the side's.
        target: its target folder, relative to the project.
        exit_code: what plain dbt must end with, so that a sequence tests what it is meant to.
        order: see `compare.Allowance`.
        skip_lines: see `compare.Allowance`.
    """

    args: str | Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    target: str = "target"
    exit_code: int = 0
    order: bool = False
    skip_lines: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The arguments as a list."""
        return shlex.split(self.args) if isinstance(self.args, str) else list(self.args)


@dataclass(frozen=True)
class Change:
    """Something that happens between two commands, on both sides."""

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
    """Change the warehouse from outside."""
    return Change(statement, lambda side: side.warehouse.execute(statement))


Step = Dbt | Change


@dataclass
class Report:
    """What was compared, and every difference, by command."""

    name: str
    commands: int = 0
    nodes: int = 0
    relations: int = 0
    differences: list[tuple[str, Difference]] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    """Commands with which plain dbt did not end as the sequence expects."""

    def add(self, command: str, seen: Compared) -> None:
        """Count one command's comparison in."""
        self.commands += 1
        self.nodes += seen.nodes
        self.relations += seen.relations
        self.differences.extend((command, difference) for difference in seen.differences)

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.commands} commands, {self.nodes} node results, {self.relations} relations"
            f" compared: {len(self.differences)} differences"
        )
        shown = self.differences[: 3 * MOST_SHOWN]
        lines = [f"  dbt {command}: {difference}" for command, difference in shown]
        return "\n".join([head, *lines, *self.surprises])


@dataclass
class Pair:
    """The two sides of a sequence."""

    plain: Side
    relay: Side
    allowance: Allowance = field(default_factory=Allowance)
    outcomes: list[tuple[Outcome, Outcome]] = field(default_factory=list)

    def play(self, name: str, steps: Iterable[Step]) -> Report:
        """Run every step on both sides and compare after each command."""
        report = Report(name)
        for step in steps:
            if isinstance(step, Change):
                step.make(self.plain)
                step.make(self.relay)
                continue
            surprises = len(report.surprises)
            with ThreadPoolExecutor(1) as beside:  # a process of its own: it need not wait for the other
                running = beside.submit(self.plain.run, step.words, step.env, step.target)
                relay = self.relay.run(step.words, step.env, step.target)
                plain = running.result()
            if plain.return_code != step.exit_code:
                report.surprises.append(
                    f"plain dbt {shlex.join(step.words)} ended with {plain.return_code}, not "
                    f"{step.exit_code}:\n" + "\n".join(plain.lines[-25:]) + plain.stderr
                )
            self.outcomes.append((plain, relay))
            allowance = replace(
                self.allowance, order=step.order, skip_lines=(*self.allowance.skip_lines, *step.skip_lines)
            )
            rules = (self.plain.rules, self.relay.rules)
            print("\n".join(report.surprises[surprises:]), end="")
            seen = compare(plain, relay, rules, allowance)
            report.add(shlex.join(step.words), seen)
            print(f"dbt {shlex.join(step.words)}: {len(seen.differences)} differences", flush=True)
            for difference in seen.differences[:MOST_SHOWN]:
                print(f"  {difference}", flush=True)
        return report


def check(*reports: Report) -> None:
    """Print the reports; the test fails where there is a difference."""
    text = "\n".join(str(report) for report in reports)
    if any(report.differences or report.surprises for report in reports):
        pytest.fail(text, pytrace=False)
    print(text)
