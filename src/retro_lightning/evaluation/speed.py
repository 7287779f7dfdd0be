"""Behaviour half: how fast arms learn, by their validation over optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retro_lightning.evaluation.comparison import Arm, Run
from retro_lightning.evaluation.paired import paired_t_interval

Interval = tuple[float, float, float]
"""Mean and limits of a 95 % t interval over paired seeds; NaN below two of them."""


@dataclass(frozen=True)
class Speed:
    """How fast an arm learns, and how that differs from the reference.

    Attributes:
        label: Name of the arm.
        threshold: Validation score that ``reached`` and ``steps`` are of.
        seeds: Number of its runs.
        reached: How many of them reached the threshold.
        steps: Mean optimiser steps to the first round of validation at or above the threshold. A
            run that does not reach it counts with all its steps (restricted mean).
        area: Mean validation score over the steps, from the first round to the last.
        ratio: ``steps`` over the reference's.
        fewer: Steps less than the reference's.
        larger: Area more than the reference's.
    """

    label: str
    threshold: float
    seeds: int
    reached: int
    steps: float
    area: float
    ratio: float
    fewer: Interval
    larger: Interval


def learning_speed(arms: Sequence[Arm], threshold: float) -> list[Speed]:
    """Steps to a threshold and area under the curve of each arm.

    Args:
        arms: The arms; the first is the reference, which the others are paired with.
        threshold: Validation score, above 0 and at most 1.

    Raises:
        ValueError: If the threshold is no share, a run has no curve or the runs are of unequal
            length.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"--threshold is {threshold}; give a share above 0, at most 1")
    horizon = _horizon([run for arm in arms for run in arm.runs])
    return [_speed(arm, arms[0], threshold, horizon) for arm in arms]


def steps_to(run: Run, threshold: float) -> int | None:
    """Optimiser steps at the first round of validation at or above a threshold; None = never."""
    return next((step for step, _, score in run.curve if score >= threshold), None)


def area(run: Run) -> float:
    """Mean of the curve over optimiser steps: trapezoids from the first round to the last."""
    steps = np.array([point[0] for point in run.curve], dtype=np.float64)
    scores = np.array([point[2] for point in run.curve], dtype=np.float64)
    if len(steps) == 1:
        return float(scores[0])
    return float(np.trapezoid(scores, steps) / (steps[-1] - steps[0]))


def _horizon(runs: Sequence[Run]) -> int:
    """The last round, which must be the same for all."""
    for run in runs:
        if not run.curve:
            raise ValueError(
                f"{run.name} has no curve of validation, so that its speed is unknown: give runs "
                "of fit, or leave --threshold out"
            )
    horizon = runs[0].curve[-1][0]
    for run in runs:
        if run.curve[-1][0] != horizon:
            raise ValueError(
                f"{run.name} was last validated after {run.curve[-1][0]} optimiser steps and "
                f"{runs[0].name} after {horizon}: speeds are of runs of equal length"
            )
    return horizon


def _speed(arm: Arm, base: Arm, threshold: float, horizon: int) -> Speed:
    def restricted(run: Run) -> float:
        found = steps_to(run, threshold)
        return float(horizon if found is None else found)

    ours, theirs = ({run.seed: run for run in one.runs} for one in (arm, base))
    shared = sorted(ours.keys() & theirs.keys())
    steps = float(np.mean([restricted(run) for run in arm.runs]))
    return Speed(
        label=arm.label,
        threshold=threshold,
        seeds=len(arm.runs),
        reached=sum(steps_to(run, threshold) is not None for run in arm.runs),
        steps=steps,
        area=float(np.mean([area(run) for run in arm.runs])),
        ratio=steps / float(np.mean([restricted(run) for run in base.runs])),
        fewer=_interval([restricted(theirs[s]) - restricted(ours[s]) for s in shared]),
        larger=_interval([area(ours[s]) - area(theirs[s]) for s in shared]),
    )


def _interval(differences: Sequence[float]) -> Interval:
    if len(differences) < 2:
        return (float("nan"),) * 3
    return paired_t_interval(differences)
