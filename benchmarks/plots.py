"""Draws plots as small SVG files that depend only on the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure import Plot


def draw(plot: Plot, folder: Path) -> Path:
    """Write ``NAME.svg``.

    Raises:
        ImportError: matplotlib is not installed: ``make bench`` installs it.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": plot.name, "font.family": "sans-serif",
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
         "axes.axisbelow": True}
    )  # fmt: skip
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    figure.patch.set_facecolor("white")  # readable on a dark page
    _bars(plot, axes) if plot.kind == "bars" else _lines(plot, axes)
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    if "x" in plot.log:
        axes.set_xscale("log")
        axes.set_xticks(plot.x, [f"{each:,}" for each in plot.x])
        axes.minorticks_off()
    if "y" in plot.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    path = folder / f"{plot.name}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path


def _lines(plot: Plot, axes: Any) -> None:
    for name, values in plot.series.items():
        points = [(x, y) for x, y in zip(plot.x, values, strict=True) if y is not None]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)


def _bars(plot: Plot, axes: Any) -> None:
    width = 0.8 / len(plot.series)
    for place, (name, values) in enumerate(plot.series.items()):
        offset = (place - (len(plot.series) - 1) / 2) * width
        shown = [(at + offset, y) for at, y in enumerate(values) if y is not None]
        axes.bar(*zip(*shown, strict=True), width=width, label=name)
    axes.set_xticks(range(len(plot.x)), plot.x)
    axes.grid(visible=False, axis="x")
