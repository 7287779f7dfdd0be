"""Data half: figures of a run, as pure functions from numbers to Matplotlib figures.

Nothing here touches ``pyplot``: there is no global state and no display, and figures can be made
from any thread. Colours are Okabe and Ito's, which people with any colour vision can tell apart
(https://jfly.uni-koeln.de/color/); lines differ in dashes and bars in lightness too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

Series = tuple[Sequence[float], Sequence[float]]
"""Steps and values of one curve, of equal length."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
_DASHES = ("-", "--", "-.", ":")
SKY, INK, PALE = "#56B4E9", "#222222", "#D8D8D8"
_DPI = 150


@dataclass(frozen=True, slots=True)
class SuccessRow:
    """How often one behaviour solved one family's tasks.

    Attributes:
        family: Task family.
        behaviour: Who acted, as the legend names it.
        success_rate: Share of episodes that solved their task, in [0, 1].
        low: Lower limit of its interval.
        high: Upper limit of its interval.
    """

    family: str
    behaviour: str
    success_rate: float
    low: float
    high: float


def learning_curve(
    series: Mapping[str, Series],
    *,
    title: str,
    ylabel: str,
    emphasised: str | None = None,
    share: bool = False,
) -> Figure:
    """Curves over optimiser steps; points that are not finite are left out.

    Args:
        series: Name of the curve → its steps and values.
        title: What the figure shows.
        ylabel: Quantity and unit of the vertical axis.
        emphasised: The curve that is drawn thick and dark, over the others.
        share: The values are shares: the axis runs from 0 to 100 %.

    Raises:
        ValueError: If a curve has fewer or more values than steps.
    """
    figure, axes = canvas(title, width=8.5, height=4.2)
    others = [name for name in series if name != emphasised]
    for number, name in enumerate(others):
        _curve(
            axes,
            series[name],
            name,
            color=COLOURS[number % len(COLOURS)],
            linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)],
            linewidth=1.5,
            marker="o",
        )
    if emphasised is not None and emphasised in series:
        _curve(axes, series[emphasised], emphasised, color=INK, linewidth=2.6, marker="o")
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel(ylabel)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if share:
        axes.set_ylim(0.0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend(axes, first=emphasised)
    return figure


def success_bars(rows: Sequence[SuccessRow], *, title: str, emphasised: str) -> Figure:
    """Success by family, one bar per behaviour, with the interval of each.

    Args:
        rows: One per family and behaviour.
        title: What the figure shows.
        emphasised: The behaviour drawn in colour, below the grey ones of each family.
    """
    families = list(dict.fromkeys(row.family for row in rows))
    others = [name for name in dict.fromkeys(row.behaviour for row in rows) if name != emphasised]
    behaviours = [*others, emphasised]
    thickness = 0.8 / len(behaviours)
    height = 1.2 + 0.17 * len(families) * (len(behaviours) + 1.0)
    figure, axes = canvas(title, width=8.5, height=height)
    for number, behaviour in enumerate(behaviours):
        shown = [row for row in rows if row.behaviour == behaviour]
        middle = np.array([families.index(row.family) for row in shown], dtype=np.float64)
        rates = np.array([row.success_rate for row in shown])
        errors = [[r.success_rate - r.low for r in shown], [r.high - r.success_rate for r in shown]]
        grey = 0.93 - 0.4 * number / max(1, len(others))
        axes.barh(
            middle + (number - (len(behaviours) - 1) / 2) * thickness,
            rates,
            height=thickness * 0.92,
            xerr=np.clip(errors, 0.0, None),
            label=behaviour,
            color=SKY if behaviour == emphasised else (grey, grey, grey),
            edgecolor=INK,
            linewidth=0.4,
            error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2.0},
        )
    axes.set_yticks(range(len(families)), families)
    axes.set_ylim(len(families) - 0.5, -0.5)
    axes.set_xlim(0.0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("tasks solved; whiskers: 95 % Wilson interval, for one checkpoint")
    axes.grid(axis="y", visible=False)
    legend(axes, first=None)
    return figure


def retry_curves(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    emphasised: str,
    bands: str = "95 % Wilson interval, for one checkpoint",
) -> Figure:
    """Success after 0, 1, 2 … retries, one line with its band for each way of reflecting.

    Args:
        curves: Name of the line → success, lower and upper limit after each number of retries.
        title: What the figure shows.
        emphasised: The line that is drawn thick and dark.
        bands: What the limits are.
    """
    figure, axes = canvas(title, width=8.5, height=4.2)
    for number, (name, points) in enumerate(curves.items()):
        rates, lows, highs = (np.array(column) for column in zip(*points, strict=True))
        line = [float(retries) for retries in range(len(rates))], rates.tolist()
        strong = name == emphasised
        colour = INK if strong else COLOURS[number % len(COLOURS)]
        dash = "-" if strong else _DASHES[number % len(_DASHES)]
        width = 2.6 if strong else 1.6
        axes.fill_between(line[0], lows, highs, color=colour, alpha=0.13, linewidth=0)
        _curve(axes, line, name, color=colour, linestyle=dash, linewidth=width, marker="o")
    axes.set_xlabel(f"retries; bands: {bands}")
    axes.set_ylabel("tasks solved")
    axes.set_ylim(0.0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend(axes, first=emphasised)
    return figure


def curriculum_histogram(
    quality_N: npt.ArrayLike, probability_N: npt.ArrayLike, *, title: str, xlabel: str
) -> Figure:
    """What the store holds, and what the curriculum draws from it.

    Args:
        quality_N: Quality (or return) of each stored trajectory.
        probability_N: Probability that the curriculum draws it; adds up to 1.
        title: What the figure shows.
        xlabel: Quantity and unit of ``quality_N``.
    """
    quality = np.asarray(quality_N, dtype=np.float64)
    edges = np.histogram_bin_edges(quality, bins=20).tolist()
    figure, axes = canvas(title, width=8.5, height=3.6)
    stored = np.full(len(quality), 1.0 / max(1, len(quality)))
    axes.hist(quality, edges, weights=stored, color="#C4C4C4", label="stored trajectories")
    axes.hist(
        quality,
        edges,
        weights=np.asarray(probability_N, dtype=np.float64),
        histtype="step",
        color=COLOURS[0],
        linewidth=2.2,
        label="drawn for training",
    )
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share of trajectories")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend(axes, first=None)
    return figure


# ---------------------------------------------------------------------- shared by all figures
def canvas(title: str, *, width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches, that is laid out when it is drawn and saved without a display."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10, colors=INK)
    axes.xaxis.label.set_fontsize(10.5)
    axes.yaxis.label.set_fontsize(10.5)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _curve(axes: Axes, series: Series, name: str, **style: Any) -> None:
    steps, values = (np.asarray(part, dtype=np.float64) for part in series)
    if steps.shape != values.shape:
        raise ValueError(f"curve {name!r} has {steps.size} steps but {values.size} values")
    finite = np.isfinite(values)
    few = finite.sum() <= 40
    axes.plot(steps[finite], values[finite], label=name, markersize=3.5 if few else 0.0, **style)


def legend(axes: Axes, *, first: str | None) -> None:
    """Beside the figure, so that it hides no data; the emphasised curve comes first."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] != first)
    if len(labels) > 1:
        axes.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            fontsize=10,
            labelcolor=INK,
        )
