"""Renders results.json as RESULTS.md and as figures in the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.measure import Cell, Outcome, Table, Target, same_machine

LIMITS = Path(__file__).with_name("limits.yml")
GAINS = Path(__file__).with_name("gains.yml")
HEADLINES = (
    "one-duckdb-wall", "one-duckdb-times", "one-duckdb-growth", "drop-in-ratio", "whole-postgres", "whole-duckdb",
    "simulation-command", "simulation-inside", "changed-vars", "growth-first",
)  # fmt: skip
"""Targets that the README shows if they were measured."""
HEAD_PLOTS = ("one-model-duckdb", "whole-project-postgres", "whole-project-duckdb")
BEGIN, END = "<!-- measured: `python -m benchmarks --render` writes this -->", "<!-- /measured -->"


class Results(msgspec.Struct):
    """Content of results.json.

    Attributes:
        command: command that measures everything again.
        outcomes: last result of each benchmark, all from one machine and one set of versions.
        missing: names of the benchmarks that were not run there.
    """

    command: str
    outcomes: list[Outcome]
    missing: list[str] = msgspec.field(default_factory=list)


def merged(before: Results | None, new: Sequence[Outcome], names: Sequence[str]) -> Results:
    """Merge new outcomes into earlier results, in the order of `names`.

    Results of another machine or of other versions are dropped, so that all figures of the page are comparable.
    """
    kept = {each.name: each for each in (before.outcomes if before else ())}
    kept = {
        name: each for name, each in kept.items() if not new or same_machine(each.machine, new[0].machine)
    }
    kept |= {each.name: each for each in new}
    return Results(
        command="make bench",
        outcomes=[kept[name] for name in names if name in kept],
        missing=[name for name in names if name not in kept],
    )


def limits(path: Path = LIMITS) -> dict[str, str]:
    """Read limits.yml: what limits each figure, by the target's key. It is written by hand."""
    texts: dict[str, str] | None = yaml.safe_load(path.read_text())
    return {key: " ".join(text.split()) for key, text in (texts or {}).items()}


def gains(path: Path = GAINS) -> Table:
    """Read gains.yml: figures before and after a change, measured in turn. It is written by hand."""
    rows = [
        [each["what"], each["before"], each["after"], each["change"]]
        for each in yaml.safe_load(path.read_text())
    ]
    return Table("", ["what", "before", "after", "by"], rows)


_TURNS = (
    "Measured in turn when the change was made: the two figures of a line compare, those of two lines do not."
)


def page(results: Results, limited: Mapping[str, str], plots: str, gained: Table | None = None) -> str:
    """Render RESULTS.md.

    Args:
        limited: see `limits`.
        gained: see `gains`.
        plots: folder of the plots, as a link from the page.
    """
    about = (
        f"Results of `{results.command}`. Times are medians of wall time; ways that are compared take turns within "
        "each round. `python -m benchmarks --render` renders this page from results.json and limits.yml."
    )
    parts = ["# Results", about]
    if results.missing:
        parts.append(
            f"**Not measured on this machine yet**: {', '.join(results.missing)}, and their targets."
        )
    if results.outcomes:
        parts += ["## Machine", _machine(results.outcomes)]
    parts += ["## Targets", _targets(results.outcomes, limited)]
    if gained is not None:
        parts += ["## Before and after", _TURNS, markdown(gained)]
    parts += [_outcome(each, plots) for each in results.outcomes]
    return "\n\n".join(parts) + "\n"


def headlines(results: Results) -> str:
    """Render the figures of the README, including missed targets."""
    targets = {each.key: each for outcome in results.outcomes for each in outcome.targets}
    drawn = {plot.name: plot.title for outcome in results.outcomes for plot in outcome.plots}
    rows: list[list[Cell]] = [
        [each.what, *_figures(each)]
        for key in HEADLINES
        if (each := targets.get(key)) and each.measured is not None
    ]
    parts = [markdown(Table("", ["", "wanted", "measured"], rows)), _measured_on(results.outcomes)]
    parts += [f"![{drawn[name]}](docs/benchmarks/{name}.svg)" for name in HEAD_PLOTS if name in drawn]
    return "\n\n".join(parts)


def with_headlines(readme: str, results: Results) -> str:
    """Replace the figures in the README."""
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{headlines(results)}\n\n{END}{after}"


def number(value: Cell) -> str:
    """Format a figure with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def verdict(target: Target) -> str:
    """Describe whether the target is met or missed, and by how much."""
    if target.measured is None or target.met is None:
        return "not measured"
    if not target.wanted or not target.measured:
        return "met" if target.met else "**missed**"
    times = target.wanted / target.measured if target.least else target.measured / target.wanted
    if target.met:
        return f"met, with {number(round((1 - times) * 100))} % to spare"
    return f"**missed**: {number(times)} times too {'little' if target.least else 'much'}"


def _machine(outcomes: Sequence[Outcome]) -> str:
    shown: dict[str, Any] = {k: v for k, v in outcomes[-1].machine.items() if k not in ("load", "commit")}
    return markdown(Table("", ["", ""], [[k.replace("_", " "), str(v)] for k, v in shown.items()]))


def _targets(outcomes: Sequence[Outcome], limited: Mapping[str, str]) -> str:
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        for each in outcome.targets:
            limit = each.limited_by or limited.get(each.key, "")
            rows.append([each.what, *_figures(each), verdict(each), limit])
    return markdown(Table("", ["target", "wanted", "measured", "", "what limits it now"], rows))


def _figures(target: Target) -> tuple[str, str]:
    """Format the wanted and the measured figure."""
    sign, unit = "≥" if target.least else "≤", f" {target.unit}" if target.unit else ""
    measured = "-" if target.measured is None else number(target.measured) + unit
    return f"{sign} {number(target.wanted)}{unit}", measured


def _measured_on(outcomes: Sequence[Outcome]) -> str:
    """Describe machine and commits in a sentence."""
    found, commits = outcomes[-1].machine, dict.fromkeys(each.machine["commit"] for each in outcomes)
    loads = [each.machine["load"] for each in outcomes]
    quick = any(each.size == "quick" for each in outcomes)
    only = (
        "From `--quick`, which shows that everything works and measures little: `make bench` does. "
        if quick
        else ""
    )
    return only + (
        f"Measured on {found['cores']} cores ({found['cpu']}), Python {found['python']}, dbt-core {found['dbt-core']}, "
        f"at commit {', '.join(commits)}; load before it {number(min(loads))} to {number(max(loads))}."
    )


def _outcome(outcome: Outcome, plots: str) -> str:
    parts = [f"## {outcome.title}"]
    size = "" if outcome.size == "normal" else f", size {outcome.size}"
    parts.append(
        f"`{outcome.command}` took {outcome.seconds:.0f} s on {outcome.at} at commit {outcome.machine.get('commit')}, "
        f"load {outcome.machine.get('load')} before{size}."
    )
    if outcome.error:
        parts.append(f"**It failed**: {outcome.error}")
    parts += outcome.notes
    for table in outcome.tables:
        parts += [f"**{table.title}**"] if table.title else []
        parts.append(markdown(table))
    parts += [f"![{plot.title}]({plots}/{plot.name}.svg)" for plot in outcome.plots]
    return "\n\n".join(parts)


def markdown(table: Table) -> str:
    """Render a table as Markdown, without its title."""
    cells = [[_cell(each) for each in row] for row in table.rows]
    rows = [table.columns, ["---"] * len(table.columns), *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Cell) -> str:
    return number(value).replace("|", "\\|").replace("\n", " ")
