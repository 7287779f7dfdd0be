"""Data half: a figure of achieved against asked returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Point = tuple[float, float, float, float, bool]
"""Asked, achieved, lower and upper limit, and whether it lies beyond the data."""


def calibration(points: Mapping[str, Sequence[Point]], *, title: str) -> Figure:
    """One panel per family; hollow points ask for more than any stored trajectory got.

    Args:
        points: Family → its levels.
        title: What the figure shows.
    """
    figure = Figure(
        figsize=(3.2 * len(points) + 0.6, 3.4), dpi=150, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for axes, (family, levels) in zip(panels, points.items(), strict=True):
        asked = [level[0] for level in levels]
        axes.plot([min(asked), max(asked)], [min(asked), max(asked)], "--", color="#888888")
        for x, y, low, high, beyond in levels:
            axes.errorbar(
                x,
                y,
                yerr=[[y - low], [high - y]],
                marker="o",
                color="#0072B2",
                markerfacecolor="white" if beyond else "#0072B2",
                capsize=2.5,
            )
        axes.set_title(family, fontsize=9)
        axes.set_xlabel("return asked for", fontsize=9)
        axes.grid(color="#D8D8D8", linewidth=0.8)
    panels[0].set_ylabel("mean return achieved (95 % interval)", fontsize=9)
    return figure
