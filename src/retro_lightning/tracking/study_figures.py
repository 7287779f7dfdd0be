"""Data half: figures of a study of trials, as pure functions from numbers to figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retro_lightning.tracking.figures import COLOURS, INK, PALE, SKY, canvas, legend

_GREY = "#9A9A9A"
_ABSENT = -0.25
"""Where a line passes a key that its trial does not have."""


@dataclass(frozen=True)
class TrialPoint:
    """One trial that has ended with values.

    Attributes:
        number: Number of the trial.
        params: What was chosen: numbers, or names of choices.
        values: Value of each metric.
        pruned: Whether it was stopped early; its value is then that of the moment.
    """

    number: int
    params: Mapping[str, Any]
    values: tuple[float, ...]
    pruned: bool = False


def history(trials: Sequence[TrialPoint], metric: str, *, maximize: bool) -> Figure:
    """The value of each trial, and the best so far."""
    figure, axes = canvas("Trials", width=8.5, height=3.8)
    done = [t for t in trials if not t.pruned]
    early = [t for t in trials if t.pruned]
    axes.plot(*_columns(early), "x", color=_GREY, label="stopped early")
    axes.plot(*_columns(done), "o", color=COLOURS[0], label="done", markersize=5)
    if done:
        numbers, values = _columns(done)
        best = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
        axes.step(numbers, best, where="post", color=INK, linewidth=1.6, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, first="best so far")
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """How much of the variance of the value each key explains."""
    figure, axes = canvas(
        "Importance of the keys (PED-ANOVA)", width=8.5, height=1.4 + 0.4 * max(1, len(shares))
    )
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[name] for name in names], color=SKY, edgecolor=INK, linewidth=0.4)
    axes.set_xlabel("share of the value's variance")
    axes.grid(axis="y", visible=False)
    return figure


def slices(trials: Sequence[TrialPoint], keys: Sequence[str], metric: str) -> Figure:
    """The value over each key by itself."""
    columns = min(3, max(1, len(keys)))
    rows = -(-max(1, len(keys)) // columns)
    figure = canvas("", width=3.4 * columns, height=2.9 * rows)[0]
    figure.clear()
    for number, key in enumerate(keys):
        axes = figure.add_subplot(rows, columns, number + 1)
        having = [t for t in trials if key in t.params and not t.pruned]
        places, labels = _positions([t.params[key] for t in having])
        axes.plot(places, [t.values[0] for t in having], "o", color=COLOURS[0], markersize=4.5)
        _axis(axes, places, labels)
        axes.set_title(_short(key), loc="left", fontsize=9.5)
        axes.set_ylabel(metric if number % columns == 0 else "", fontsize=9)
        axes.grid(color=PALE, linewidth=0.8)
        axes.tick_params(labelsize=8.5)
    return figure


def parallel_coordinates(
    trials: Sequence[TrialPoint], keys: Sequence[str], metric: str, *, maximize: bool
) -> Figure:
    """One line per trial through its choices to its value; better ones are darker."""
    figure, axes = canvas("Trials through the space", width=max(8.5, 1.9 * len(keys)), height=4.2)
    done = [t for t in trials if not t.pruned]
    columns = [_unit([t.params.get(key) for t in done]) for key in keys]
    columns.append(_unit([t.values[0] for t in done]))
    worth = np.argsort(np.argsort([t.values[0] if maximize else -t.values[0] for t in done]))
    for number, trial in enumerate(done):
        share = worth[number] / max(1, len(done) - 1)
        heights = [column[0][number] for column in columns]
        best = bool(worth[number] == len(done) - 1)
        axes.plot(
            range(len(columns)),
            heights,
            color=COLOURS[1] if best else COLOURS[0],
            alpha=0.9 if best else 0.25 + 0.5 * float(share) ** 2,
            linewidth=2.4 if best else 1.2,
            label=f"best: trial {trial.number}" if best else None,
        )
    for place, (_, low, high) in enumerate(columns):
        axes.axvline(place, color=INK, linewidth=0.8)
        axes.annotate(high, (place, 1.03), ha="center", fontsize=8)
        axes.annotate(low, (place, -0.09), ha="center", fontsize=8)
        if _ABSENT in columns[place][0]:
            axes.annotate("absent", (place, _ABSENT - 0.08), ha="center", fontsize=8)
    axes.set_xticks(range(len(columns)), [*map(_short, keys), metric], rotation=15, ha="right")
    axes.set_yticks([])
    axes.set_ylim(_ABSENT - 0.12, 1.1)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    return figure


def pareto_front(
    trials: Sequence[TrialPoint], metrics: Sequence[str], maximize: Sequence[bool]
) -> Figure:
    """The first two metrics against each other; the front is what no trial beats in both."""
    figure, axes = canvas("Pareto front", width=8.5, height=4.2)
    done = [t for t in trials if not t.pruned]
    front = [t for t in done if not any(_dominates(o, t, maximize) for o in done)]
    others = [t for t in done if t not in front]
    for group, colour, label in ((others, _GREY, "other trials"), (front, COLOURS[1], "front")):
        axes.plot(
            [t.values[1] for t in group],
            [t.values[0] for t in group],
            "o",
            color=colour,
            label=label,
        )
    for trial in front:
        axes.annotate(f" {trial.number}", (trial.values[1], trial.values[0]), fontsize=8.5)
    axes.set_xlabel(metrics[1])
    axes.set_ylabel(metrics[0])
    legend(axes, first="front")
    return figure


def _dominates(one: TrialPoint, other: TrialPoint, maximize: Sequence[bool]) -> bool:
    signs = [1.0 if m else -1.0 for m in maximize]
    pairs = [(s * a, s * b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _columns(trials: Sequence[TrialPoint]) -> tuple[list[int], list[float]]:
    return [t.number for t in trials], [t.values[0] for t in trials]


def _positions(values: Sequence[Any]) -> tuple[list[float], list[str]]:
    """Places on an axis; names are numbered in alphabetical order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], []
    names = sorted({str(value) for value in values})
    return [float(names.index(str(value))) for value in values], names


def _axis(axes: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    if labels:
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif places and min(places) > 0 and max(places) / min(places) >= 20:
        axes.set_xscale("log")


def _unit(values: Sequence[Any]) -> tuple[list[float], str, str]:
    """Values between 0 and 1, with what stands at both ends; ``_ABSENT`` where there is none."""
    having = [value for value in values if value is not None]
    places, names = _positions(having)
    low, high = (min(places), max(places)) if places else (0.0, 1.0)
    scaled = iter([(p - low) / (high - low) if high > low else 0.5 for p in places])
    ends = (names[0], names[-1]) if names else (f"{low:.3g}", f"{high:.3g}")
    return [_ABSENT if v is None else next(scaled) for v in values], *ends


def _short(key: str) -> str:
    parts = [part for part in key.split(".") if part != "init_args"]
    return ".".join(parts[-2:])
