"""Behaviour half: what is subtracted from the return to lower the variance of the gradient.

A baseline may depend on anything but the trajectory it is applied to; then the expected gradient
stays what it is (Williams 1992; Greensmith et al. 2004). So the statistics come from the whole
store, never from the curriculum's sample, and leave the trajectory at hand out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


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
    def faulted(self) -> npt.NDArray[np.bool_]:
        """Where the environment raised [N]; left out of all statistics."""


class Baseline(ABC):
    """What is subtracted from the return-to-go.

    Attributes:
        needs_value_head: Whether it is the value head's estimate, so that the value loss must not
            be switched off.
    """

    needs_value_head: bool = False

    @abstractmethod
    def update(self, columns: Outcomes) -> None:
        """Renew the statistics from the whole store; call it whenever the store has grown."""

    @abstractmethod
    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """Baseline of each step, without gradient.

        Args:
            rows_B: Row of each trajectory in the columns of the last ``update``.
            values_BS: Value head's estimates; gives shape, type and device to the result.

        Returns:
            ``baseline_BS``, in units of return.

        Raises:
            ValueError: If a row is not among the columns of the last ``update``.
        """


class NoBaseline(Baseline):
    """Subtracts nothing."""

    def update(self, columns: Outcomes) -> None:
        """Nothing to renew."""

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(values_BS)


class ValueHeadBaseline(Baseline):
    """Subtracts the value head's estimate of the state before each action.

    The value head has been trained on replayed trajectories, among them earlier uses of the one at
    hand: only for trajectories it has not yet learnt from is this baseline independent of them.
    """

    needs_value_head = True

    def update(self, columns: Outcomes) -> None:
        """Nothing to renew: the value head learns by gradient."""

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The values, detached."""
        return values_BS.detach()


class MovingAverage(Baseline):
    """Subtracts an exponentially weighted mean of all returns in the store, newest first.

    One number for all families; families that differ much in difficulty are better served by
    ``PerTask``.

    Args:
        decay: Weight of a trajectory relative to the one published just after it, in (0, 1]. Lower
            = follows the newest policy faster, with more noise; 1 = plain mean.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"MovingAverage: decay is {decay}; give a number above 0, at most 1")
        self.decay = decay
        self._baseline_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the average; see ``Baseline``."""
        usable_N = ~columns.faulted
        age_N = np.cumsum(usable_N[::-1])[::-1] - 1
        weight_N = np.where(usable_N, self.decay ** np.maximum(age_N, 0), 0.0)
        everyone = np.zeros(len(usable_N), dtype=np.int64)
        self._baseline_N = others_mean(columns.returns, weight_N, everyone, fallback=0.0)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The average over the others, the same at every step."""
        return _rows(self._baseline_N, rows_B, values_BS)


class PerTask(Baseline):
    """Subtracts the mean return of the other attempts at the same task.

    Tasks with few other attempts are shrunk towards the mean of their family.

    Args:
        prior_weight: How many attempts the family's mean counts for, above 0. Lower = trusts few
            attempts at the task itself; higher = closer to one baseline per family.
    """

    def __init__(self, prior_weight: float = 2.0) -> None:
        if not 0.0 < prior_weight < np.inf:
            raise ValueError(
                f"PerTask: prior_weight is {prior_weight}; give a finite number above 0"
            )
        self.prior_weight = prior_weight
        self._baseline_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the means; see ``Baseline``."""
        weight_N = (~columns.faulted).astype(np.float64)
        everyone = np.zeros(len(weight_N), dtype=np.int64)
        overall_N = others_mean(columns.returns, weight_N, everyone, fallback=0.0)
        family_N = others_mean(columns.returns, weight_N, columns.family, fallback=overall_N)
        total_N, count_N = _others(columns.returns, weight_N, columns.task_id)
        self._baseline_N = (total_N + self.prior_weight * family_N) / (count_N + self.prior_weight)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The shrunk mean over the others, the same at every step."""
        return _rows(self._baseline_N, rows_B, values_BS)


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
    total_N, others_N = _others(values_N, weight_N, group_N)
    alone_N = others_N <= 1e-12
    return np.where(alone_N, fallback, total_N / np.where(alone_N, 1.0, others_N))


def _others(values_N: Floats, weight_N: Floats, group_N: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Weighted sum and weight of the other members of each entry's group."""
    weighted_N = values_N * weight_N
    total_N = np.bincount(group_N, weights=weighted_N)[group_N] - weighted_N
    others_N = np.bincount(group_N, weights=weight_N)[group_N] - weight_N
    return total_N, others_N


def _rows(baseline_N: Floats, rows_B: Tensor, values_BS: Tensor) -> Tensor:
    rows = rows_B.cpu().numpy()
    if rows.size and not (rows.min() >= 0 and rows.max() < len(baseline_N)):
        raise ValueError(
            f"a batch asks for the baseline of row {int(rows.max())}, but the last update saw "
            f"{len(baseline_N)} trajectories: update the baseline after the store has grown"
        )
    baseline_B = torch.as_tensor(baseline_N[rows], dtype=values_BS.dtype, device=values_BS.device)
    return baseline_B[:, None].expand_as(values_BS)
