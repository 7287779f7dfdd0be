"""Data half: a figure of what every estimator makes of one trajectory, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def credit_map(
    pushes: Mapping[str, Sequence[float]], actions: Sequence[str], *, title: str
) -> Figure:
    """A row per estimator, a column per step; blue = made more likely, red = less likely.

    Each row is on its own scale, its largest push being 1: estimators differ in scale, and it is
    where they put their weight that is compared.

    Args:
        pushes: Name of the estimator → push on the log-probability of each step's action.
        actions: The actions.
        title: What the figure shows.
    """
    names = list(pushes)
    rows = np.array([list(pushes[name]) for name in names], dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    size = (3.5 + 0.45 * len(actions), 1.8 + 0.24 * len(names))
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(scaled, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    labels = [action if len(action) <= 24 else f"{action[:23]}…" for action in actions]
    axes.set_xticks(range(len(actions)), labels, rotation=60, ha="right", fontsize=7)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("push on the log-probability, own scale", fontsize=8)
    return figure
