"""Report of a finished run: a table of its nodes, and its errors with place, SQL and suggested fix."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from producer.display.live_view import short_name, status_style
from workers.contract.errors import ErrorInfo
from workers.contract.results import DbtResult, NodeResult

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_DETAIL_LINES = 12
WIDTH_OF_A_FILE = 120
"""Width in columns where the output is not a terminal."""


def render_result(result: DbtResult) -> RenderableType:
    """Render a result: nodes, errors, warnings, and a summary line."""
    parts: list[RenderableType] = []
    if result.nodes:
        parts.append(render_nodes(result.nodes))
    parts.extend(render_error(error) for error in errors_of(result))
    parts.extend(Text(f"Warning: {warning}", style="yellow") for warning in result.warnings)
    parts.append(summary(result))
    return Group(*parts)


def print_result(result: DbtResult, file: TextIO | None = None) -> None:
    """Print `render_result` to `file` (default: stdout), with colours only on a terminal."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=WIDTH_OF_A_FILE)
    console.print(render_result(result))


def render_nodes(nodes: tuple[NodeResult, ...]) -> Table:
    """Render a table with a row for each node, in the order of dbt's run results. Times are dbt's, in seconds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node", overflow="fold")
    table.add_column("type")
    table.add_column("status")
    table.add_column("time", justify="right")
    table.add_column("attempts", justify="right")
    table.add_column("worker", overflow="fold")
    for node in nodes:
        ran = node.status != "skipped"
        table.add_row(
            Text(node.name or short_name(node.unique_id)),
            Text(node.resource_type),
            Text(_status(node), style=status_style(node.status)),
            Text(f"{node.execution_time:.2f} s" if ran else ""),
            Text(
                str(len(node.attempts) or 1) if ran else "", style="yellow" if len(node.attempts) > 1 else ""
            ),
            Text(node.worker, style="dim"),
        )
    return table


def _status(node: NodeResult) -> str:
    return f"{node.status} {node.failures}" if node.failures else node.status


def errors_of(result: DbtResult) -> list[ErrorInfo]:
    """The errors of the nodes; before them the error of the run, unless a node has the same."""
    errors = [node.error for node in result.nodes if node.error is not None]
    if result.error is not None and result.error not in errors:
        own = result.error
        if not any((error.code, error.node) == (own.code, own.node) for error in errors):
            errors.insert(0, own)
    return errors


def render_error(error: ErrorInfo) -> RenderableType:
    """Render a classified error: code, node, place, message, compiled SQL, suggested fix."""
    parts: list[RenderableType] = []
    if error.file:
        parts.append(Text(f"{error.file}, line {error.line}" if error.line else error.file, style="dim"))
    parts.append(Text(error.message))
    detail = error.detail.strip()
    if detail and detail not in error.message:
        parts.append(Text(_clip(detail), style="dim"))
    if error.sql_excerpt:
        parts.append(Text(f"\n{error.sql_excerpt.rstrip()}\n", style="cyan"))
    notes = []
    if error.failures is not None:
        notes.append(f"{error.failures} failing row{'' if error.failures == 1 else 's'}")
    if error.attempts > 1:
        notes.append(f"tried {error.attempts} times")
    if error.retryable:
        notes.append("may pass when tried again")
    if notes:
        parts.append(Text("; ".join(notes), style="dim"))
    if error.suggested_fix:
        parts.append(Text.assemble(("Fix: ", "bold green"), error.suggested_fix))
    title = Text(error.code, style="bold red")
    if error.node:
        title.append(f" in {error.node}", style="not bold default")
    return Panel(Group(*parts), title=title, title_align="left", border_style="red")


def _clip(text: str) -> str:
    lines = text.splitlines()
    if len(lines) <= MAX_DETAIL_LINES:
        return text
    return "\n".join([*lines[:MAX_DETAIL_LINES], f"… {len(lines) - MAX_DETAIL_LINES} more lines"])


def summary(result: DbtResult) -> Text:
    """``40 nodes: 38 success, 1 error, 1 skipped in 3.2 s, exit code 1``."""
    text = Text()
    if result.nodes:
        text.append(f"{len(result.nodes)} node{'' if len(result.nodes) == 1 else 's'}: ")
        for position, (status, number) in enumerate(
            Counter(node.status for node in result.nodes).most_common()
        ):
            text.append(", " if position else "")
            text.append(f"{number} {status}", style=status_style(status))
    else:
        text.append(" ".join(result.command[:2]))
    text.append(f" in {result.execution_time:.1f} s, exit code {result.return_code}")
    if result.run_id:
        text.append(f"  ({result.run_id})", style="dim")
    return text
