"""Behaviour half: how good stored trajectories are, each measure in [0, 1], higher = better."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


class Columns(Protocol):
    """Columns of a whole store, one entry per trajectory, in order of publication."""

    @property
    def returns(self) -> Floats:
        """Undiscounted return [N], in the environment's units."""

    @property
    def success(self) -> Mask:
        """Whether the task was solved [N]."""

    @property
    def length(self) -> Codes:
        """Number of steps (turns, not tokens) [N]."""

    @property
    def task_id(self) -> Codes:
        """Code of the task [N], from 0; equal code = equal task."""

    @property
    def family(self) -> Codes:
        """Code of the family [N], from 0."""


def return_quality(returns_N: Floats, family_N: Codes, learnable_N: Mask) -> Floats:
    """Return, scaled to [0, 1] within each family: 0 = its worst trajectory, 1 = its best.

    Args:
        returns_N: Returns.
        family_N: Family codes, from 0.
        learnable_N: Which trajectories set the scale.

    Returns:
        Quality [N]; 0.5 in a family whose returns do not differ, 0 where not learnable.
    """
    families = int(family_N.max(initial=-1)) + 1
    low, high = np.full(families, np.inf), np.full(families, -np.inf)
    np.minimum.at(low, family_N[learnable_N], returns_N[learnable_N])
    np.maximum.at(high, family_N[learnable_N], returns_N[learnable_N])
    # A family without learnable trajectories has no scale; its entries are set to 0 below.
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    span_N = (high - low)[family_N]
    flat_N = span_N <= 0
    scaled_N = (returns_N - low[family_N]) / np.where(flat_N, 1.0, span_N)
    return np.where(learnable_N, np.where(flat_N, 0.5, scaled_N), 0.0)


def length_efficiency(length_N: Codes, task_N: Codes, success_N: Mask, learnable_N: Mask) -> Floats:
    """Shortest known solution of the task over the trajectory's own length; 0 for failures.

    Args:
        length_N: Lengths in steps.
        task_N: Task codes, from 0.
        success_N: Whether the task was solved.
        learnable_N: Which trajectories count as known.

    Returns:
        Efficiency [N] in [0, 1]; 1 = no stored attempt solved the task in fewer steps.
    """
    solved_N = success_N & learnable_N
    shortest = np.full(int(task_N.max(initial=-1)) + 1, np.inf)
    np.minimum.at(shortest, task_N[solved_N], length_N[solved_N])
    own_N = np.maximum(length_N, 1)
    best_N = np.where(solved_N, np.maximum(shortest[task_N], 1), 0.0)
    return np.asarray(best_N / own_N, dtype=np.float64)


def quality(
    columns: Columns,
    learnable_N: Mask,
    *,
    success_weight: float,
    return_weight: float,
    efficiency_weight: float,
) -> Floats:
    """Weighted mean of success, return within the family, and length efficiency.

    Args:
        columns: Columns of the store.
        learnable_N: Which trajectories may be learnt from; only they set scales.
        success_weight: Weight of success (0 or 1).
        return_weight: Weight of ``return_quality``.
        efficiency_weight: Weight of ``length_efficiency``.

    Returns:
        Quality [N] in [0, 1]; 0 where not learnable.
    """
    total = success_weight + return_weight + efficiency_weight
    sum_N = success_weight * columns.success.astype(np.float64)
    if return_weight:
        sum_N = sum_N + return_weight * return_quality(columns.returns, columns.family, learnable_N)
    if efficiency_weight:
        sum_N = sum_N + efficiency_weight * length_efficiency(
            columns.length, columns.task_id, columns.success, learnable_N
        )
    return np.where(learnable_N, sum_N / total, 0.0)
