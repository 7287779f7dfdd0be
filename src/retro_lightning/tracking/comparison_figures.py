"""Data half: figures of a comparison: what arms reached, how they differ, how fast they learnt."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from scipy.special import stdtrit

from retro_lightning.evaluation.comparison import LEVEL, Arm, ArmSummary, Comparison
from retro_lightning.tracking.figures import COLOURS, INK, SKY, canvas, legend

Curve = Sequence[tuple[int, int, float]]
"""Optimiser steps, environment steps and score of each round of validation."""


def reached(arms: Sequence[Arm], summaries: Sequence[ArmSummary]) -> Figure:
    """Every seed of every arm as a dot, the interquartile mean as a bar with its interval."""
    labels = [_wrapped(arm.label) for arm in arms]
    figure, axes = canvas("What each arm reached", width=8.5, height=_height(labels))
    for row, (arm, summary) in enumerate(zip(arms, summaries, strict=True)):
        axes.barh(row, summary.interquartile, height=0.5, color=SKY, edgecolor=INK, linewidth=0.4)
        axes.plot([summary.low, summary.high], [row, row], color=INK, linewidth=1.4)
        means = arm.scores_SF.mean(axis=1)
        axes.plot(means, np.full(len(means), row), "o", color=COLOURS[1], markersize=4, alpha=0.8)
    axes.set_yticks(range(len(arms)), labels)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlim(0.0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("tasks solved\nbar: interquartile mean, line: bootstrap interval, dots: seeds")
    axes.grid(axis="y", visible=False)
    return figure


def differences(comparisons: Sequence[Comparison]) -> Figure:
    """Mean difference of each pair with its t interval; called winners in colour."""
    labels = [f"{_wrapped(c.first)}\n- {_wrapped(c.second)}" for c in comparisons]
    figure, axes = canvas("Differences, paired by seed", width=8.5, height=_height(labels))
    axes.axvline(0.0, color=INK, linewidth=1.0)
    for row, c in enumerate(comparisons):
        colour = COLOURS[0] if c.winner is not None else "#8A8A8A"
        axes.plot(c.differences, np.full(len(c.differences), row), "|", color=colour, markersize=9)
        if np.isfinite(c.low):
            axes.plot([c.low, c.high], [row, row], color=colour, linewidth=2.2)
        axes.plot([c.mean], [row], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(comparisons)), labels)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlabel(
        "difference in tasks solved\nline: 95 % t interval, marks: seeds\n"
        f"blue: Holm-corrected p at most {LEVEL:g}"
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", visible=False)
    return figure


def _wrapped(label: str) -> str:
    """A label in lines that leave room for what is drawn beside it."""
    return textwrap.fill(label, width=40)


def _height(labels: Sequence[str]) -> float:
    """Inches that a row for each label takes, by its lines."""
    return 1.6 + sum(0.25 + 0.2 * len(label.splitlines()) for label in labels)


def sample_efficiency(arms: Sequence[Arm], *, environment_steps: bool) -> Figure:
    """Validation score over steps: mean over seeds, with a 95 % t band from three seeds on.

    Args:
        arms: The arms; runs without a curve are left out.
        environment_steps: Over steps of fresh rollouts instead of optimiser steps.
    """
    unit = "environment steps of fresh rollouts" if environment_steps else "optimiser steps"
    figure, axes = canvas(f"Validation over {unit}", width=8.5, height=4.2)
    for number, arm in enumerate(arms):
        curves = [run.curve for run in arm.runs if run.curve]
        if curves:
            steps, mean, half = band(curves, environment_steps=environment_steps)
            _band(axes, steps, mean, half, _wrapped(arm.label), COLOURS[number % len(COLOURS)])
    axes.set_xlabel(unit)
    axes.set_ylabel("validation tasks solved")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    legend(axes, first=None)
    return figure


def learning_bands(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], ylabel: str
) -> Figure:
    """Mean curves over optimiser steps, each with its band.

    Args:
        curves: Name → steps, means and half widths of the band (NaN = no band).
        ylabel: Metric.
    """
    figure, axes = canvas("Learning curves: mean over seeds", width=8.5, height=4.2)
    for number, (name, (steps, mean, half)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        _band(axes, np.array(steps), np.array(mean), np.array(half), name, colour)
    axes.set_xlabel("optimiser steps; band: 95 % t interval over seeds, from three seeds on")
    axes.set_ylabel(ylabel)
    axes.set_xlim(left=0)
    legend(axes, first=None)
    return figure


def band(
    curves: Sequence[Curve], *, environment_steps: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve over seeds, and half the width of its t band.

    The n-th rounds of validation belong together: over optimiser steps they lie at the same place,
    over environment steps at the mean of theirs.

    Returns:
        Steps, means and half widths; these are NaN below three seeds.
    """
    rounds = min(len(curve) for curve in curves)
    steps_SR = np.array([[p[int(environment_steps)] for p in c[:rounds]] for c in curves], float)
    scores_SR = np.array([[p[2] for p in c[:rounds]] for c in curves], float)
    seeds = len(curves)
    half = np.full(rounds, np.nan)
    if seeds >= 3:
        half = stdtrit(seeds - 1, 0.975) * scores_SR.std(axis=0, ddof=1) / np.sqrt(seeds)
    return steps_SR.mean(axis=0), scores_SR.mean(axis=0), half


def _band(
    axes: Axes, steps: np.ndarray, mean: np.ndarray, half: np.ndarray, label: str, colour: str
) -> None:
    axes.plot(steps, mean, "o-", color=colour, label=label, linewidth=1.8, markersize=3.5)
    if np.isfinite(half).all():
        axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
