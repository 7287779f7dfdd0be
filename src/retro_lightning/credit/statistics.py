"""Behaviour half: means and variances over the other trajectories of a store."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


class Outcomes(Protocol):
    """Columns of a whole store, one entry per trajectory, in order of publication."""

    @property
    def returns(self) -> Floats:
        """Undiscounted return of each trajectory [N], in the environment's units."""

    @property
    def task_id(self) -> npt.NDArray[Any]:
        """Code of each trajectory's task [N], from 0; equal code = equal task."""

    @property
    def family(self) -> npt.NDArray[Any]:
        """Code of each trajectory's family [N], from 0."""

    @property
    def behaviour(self) -> npt.NDArray[Any]:
        """Code of who acted in each trajectory [N], from 0."""

    @property
    def run(self) -> npt.NDArray[Any]:
        """Code of the run or history that made each trajectory [N], from 0."""

    @property
    def policy_version(self) -> npt.NDArray[Any]:
        """Policy version of each trajectory [N]; -1 = no policy of ours."""

    @property
    def faulted(self) -> npt.NDArray[np.bool_]:
        """Where the environment raised [N]; left out of all statistics."""


def groups(columns: Outcomes) -> Codes:
    """Code of each trajectory's group [N]: same task, policy version, behaviour and run."""
    keys = (columns.task_id, columns.policy_version, columns.behaviour, columns.run)
    if len(columns.returns) == 0:
        return np.empty(0, dtype=np.int64)
    _, codes = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    return np.asarray(codes, dtype=np.int64).reshape(-1)


def others_mean(
    values_N: Floats, weight_N: Floats, group_N: npt.NDArray[Any], fallback: Floats | float
) -> Floats:
    """Weighted mean over the other members of each entry's group.

    Args:
        values_N: Values.
        weight_N: Weight of each value, not negative.
        group_N: Group of each value, codes from 0.
        fallback: The mean where the others weigh nothing.

    Returns:
        Mean of the others [N].
    """
    total_N, others_N = others_total(values_N, weight_N, group_N)
    alone_N = others_N <= 1e-12
    return np.where(alone_N, fallback, total_N / np.where(alone_N, 1.0, others_N))


def others_total(
    values_N: Floats, weight_N: Floats, group_N: npt.NDArray[Any]
) -> tuple[Floats, Floats]:
    """Weighted sum and weight of the other members of each entry's group."""
    weighted_N = values_N * weight_N
    total_N = np.bincount(group_N, weights=weighted_N)[group_N] - weighted_N
    others_N = np.bincount(group_N, weights=weight_N)[group_N] - weight_N
    return total_N, others_N


def others_variance(
    values_N: Floats, weight_N: Floats, group_N: npt.NDArray[Any]
) -> tuple[Floats, Floats]:
    """Weighted variance (no Bessel correction) over the other members, and their weight.

    Returns:
        Variance [N], 0 where the others weigh nothing, and their weight [N].
    """
    center = float(values_N.mean()) if len(values_N) else 0.0  # against cancellation
    shifted_N = values_N - center
    mean_N = others_mean(shifted_N, weight_N, group_N, fallback=0.0)
    square_N = others_mean(shifted_N**2, weight_N, group_N, fallback=0.0)
    _, others_N = others_total(values_N, weight_N, group_N)
    return np.maximum(square_N - mean_N**2, 0.0), others_N


def pick(statistic_N: Floats, rows_B: Tensor) -> Tensor:
    """Entries of some rows, float64, on the rows' device.

    Raises:
        ValueError: If a row is not among the entries.
    """
    rows = rows_B.cpu().numpy()
    if rows.size and not (rows.min() >= 0 and rows.max() < len(statistic_N)):
        raise ValueError(
            f"a batch asks for the baseline of row {int(rows.max())}, but the last update saw "
            f"{len(statistic_N)} trajectories: update the baseline after the store has grown"
        )
    return torch.as_tensor(statistic_N[rows], device=rows_B.device)
