"""The demo: simulates a company's workforce year by year, on a private stack.

``dbt-relay demo`` or ``python -m producer.demo``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from producer import DbtRunner
from producer.broker import configured_broker
from producer.display.live_view import LiveView, PlainView, short_name, status_style, view_for
from producer.display.report import WIDTH_OF_A_FILE, print_result, summary
from workers.contract.events import Event
from workers.contract.results import DbtResult, NodeResult

YEARS = range(2025, 2028)
HEADCOUNT = "select * from {{ ref('rpt_headcount_by_year') }} order by simulation_year"
TEST_TYPES = {"test": "data tests", "unit_test": "unit tests"}


class Demo:
    """Runs the simulation and shows it."""

    def __init__(self, view: LiveView | PlainView, console: Console, file: TextIO) -> None:
        self.view, self.console, self.file = view, console, file
        self.silent = False  # whether events are not shown

    def on_event(self, event: Event) -> None:
        """Show an event of the current run."""
        if not self.silent:
            self.view.on_event(event)

    def run(self, runner: DbtRunner, years: Sequence[int]) -> int:
        """Run ``dbt deps`` and one ``dbt build`` a year, then print tables. Returns dbt's last exit code."""
        built: dict[int, DbtResult] = {}
        with self.view:
            result = runner.execute_command(["deps"], stream_output=False)
            for year in years if result.success else ():
                self.view.title = str(year)
                result = runner.execute_command(["build"], simulation_year=year, stream_output=False)
                if not result.success:
                    break
                built[year] = result
        if built:
            self.console.print(Text("\nSeconds by node and year", style="bold"))
            self.console.print(render_times(built))
            for year, each in built.items():
                self.console.print(Text(f"{year}: ").append(summary(each)))
        if not result.success:
            print_result(result, self.file)
            return result.return_code
        return self._headcount(runner, years[-1])

    def _headcount(self, runner: DbtRunner, year: int) -> int:
        self.silent = True
        shown = runner.execute_command(
            ["--quiet", "show", "--inline", HEADCOUNT, "--output", "json", "--limit", "100"],
            simulation_year=year,
            stream_output=False,
        )
        if not shown.success:
            print_result(shown, self.file)
            return shown.return_code
        self.console.print(Text("\nHeadcount by year", style="bold"))
        self.console.print(render_rows(rows_shown(shown.stdout)))
        return 0


def run_demo(
    project: Path, years: Sequence[int] = YEARS, *, workers: int = 2, file: TextIO | None = None
) -> int:
    """Simulate `years`. Stops at the first year that fails.

    Args:
        project: folder of the dbt project.
        years: one ``dbt build`` each.
        workers: number of processes of the private stack.
        file: where dbt's lines, node times and the headcount by year are shown; default: stdout.

    Returns:
        dbt's exit code of the last command.

    Raises:
        DbtError: there is no such project, or no stack could be started.
    """
    file = sys.stdout if file is None else file
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=WIDTH_OF_A_FILE)
    demo = Demo(view_for(file), console, file)
    own = "" if configured_broker() else f" with {workers} worker processes"
    console.print(Text(f"Simulating {years[0]} to {years[-1]}{own}", style="bold"))
    return demo.run(DbtRunner(project, workers=workers, on_event=demo.on_event), years)


def render_times(built: Mapping[int, DbtResult]) -> Table:
    """Render the seconds of each node and year. Tests are summed by type."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node", overflow="fold")
    table.add_column("type")
    times: dict[tuple[str, str], dict[int, str]] = {}
    styles: dict[tuple[str, str], str] = {}
    for year, result in built.items():
        table.add_column(str(year), justify="right")
        tests: dict[str, list[NodeResult]] = {}
        for node in result.nodes:
            if node.resource_type in TEST_TYPES:
                tests.setdefault(node.resource_type, []).append(node)
                continue
            key = (node.name or short_name(node.unique_id), node.resource_type)
            times.setdefault(key, {})[year] = f"{node.execution_time:.2f}"
            styles[key] = "" if node.success else status_style(node.status)
        for kind, nodes in tests.items():
            key = (f"{len(nodes)} {TEST_TYPES[kind]}", kind)
            times.setdefault(key, {})[year] = f"{sum(node.execution_time for node in nodes):.2f}"
    for (name, kind), by_year in times.items():
        style = styles.get((name, kind), "")
        table.add_row(Text(name, style=style), kind, *(by_year.get(year, "") for year in built))
    return table


def rows_shown(stdout: str) -> list[dict[str, Any]]:
    """The rows that ``dbt show --output json`` printed. Raises ValueError when there are none."""
    start = stdout.find("{")
    try:
        return list(json.JSONDecoder().raw_decode(stdout[start:])[0]["show"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"dbt show printed no rows: {stdout[-500:]!r}") from None


def render_rows(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Render the rows of a query, with the columns of the first row; rates as percentages."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, row in enumerate(rows):
        if number == 0:
            for column in row:
                table.add_column(column.replace("_", " "), justify="right")
        table.add_row(*(_cell(column, value) for column, value in row.items()))
    return table


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.endswith("_rate"):
        return f"{100 * float(value):.2f} %"
    return str(value)


if __name__ == "__main__":  # the process becomes the command, which reads the options
    os.execv(sys.executable, [sys.executable, "-m", "producer", "demo", *sys.argv[1:]])  # noqa: S606
