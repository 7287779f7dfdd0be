"""Behaviour half: what returns and advantages are divided by, so that tasks weigh alike."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit.statistics import Floats, Outcomes, groups, others_variance, pick

ADVANTAGE_STD_FLOOR = 0.05
"""Least standard deviation that advantages are divided by, in units of return."""


def advantage_moments(advantages_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """Count, sum and sum of squares of the advantages of one part of a gradient step.

    Moments of parts (or of processes) add up to those of the whole, so that the standard deviation
    does not depend on how the step was split.

    Args:
        advantages_BS: Advantages.
        steps_BS: Mask of steps.

    Returns:
        Tensor of shape [3].
    """
    mask = steps_BS.to(advantages_BS.dtype)
    kept = torch.where(steps_BS, advantages_BS, 0.0).detach()
    return torch.stack([mask.sum(), kept.sum(), kept.square().sum()])


def advantage_std(moments: Tensor) -> Tensor:
    """Standard deviation from added-up ``advantage_moments``, not below ``ADVANTAGE_STD_FLOOR``.

    Only the scale is taken from the batch. Its mean is not subtracted: that would be a baseline
    that comes from the curriculum's sample and contains the trajectory it is applied to.

    Args:
        moments: Tensor of shape [3].

    Returns:
        Scalar tensor, in units of return.
    """
    count = moments[0].clamp(min=1.0)
    mean = moments[1] / count
    variance = (moments[2] / count - mean.square()).clamp(min=0.0)
    return variance.sqrt().clamp(min=ADVANTAGE_STD_FLOOR)


class ReturnScale(ABC):
    """What the advantages of each trajectory are divided by."""

    @abstractmethod
    def update(self, columns: Outcomes) -> None:
        """Renew the statistics from the whole store; call it whenever the store has grown."""

    @abstractmethod
    def __call__(self, rows_B: Tensor) -> Tensor:
        """Scale of each trajectory.

        Args:
            rows_B: Row of each trajectory in the columns of the last ``update``.

        Returns:
            ``scale_B``, above 0, float32, on the device of ``rows_B``.

        Raises:
            ValueError: If a row is not among the columns of the last ``update``.
        """


class PerTaskScale(ReturnScale):
    """Standard deviation of the returns of the other attempts at the same task.

    Tasks with few other attempts are shrunk towards the variance of their family. Dividing by it
    lets tasks with small rewards weigh as much as tasks with large ones; the expected gradient is
    then that of a weighted sum of the tasks' returns.

    Args:
        prior_weight: How many attempts the family's variance counts for, above 0. Lower = trusts
            few attempts at the task itself; higher = closer to one scale per family.
        floor: Least standard deviation, above 0, in units of return. Higher = tasks whose returns
            hardly vary are blown up less.
    """

    def __init__(self, prior_weight: float = 2.0, floor: float = ADVANTAGE_STD_FLOOR) -> None:
        for name, value in (("prior_weight", prior_weight), ("floor", floor)):
            if not 0.0 < value < np.inf:
                raise ValueError(f"PerTaskScale: {name} is {value}; give a finite number above 0")
        self.prior_weight, self.floor = prior_weight, floor
        self._scale_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the deviations; see ``ReturnScale``."""
        weight_N = (~columns.faulted).astype(np.float64)
        family_N, _ = others_variance(columns.returns, weight_N, columns.family)
        task_N, count_N = others_variance(columns.returns, weight_N, columns.task_id)
        shrunk_N = (count_N * task_N + self.prior_weight * family_N) / (count_N + self.prior_weight)
        self._scale_N = np.maximum(np.sqrt(shrunk_N), self.floor)

    def __call__(self, rows_B: Tensor) -> Tensor:
        """The shrunk deviation."""
        return pick(self._scale_N, rows_B).float()


class GroupScale(ReturnScale):
    """Standard deviation of the returns of the trajectory's own group, itself included (GRPO).

    Shao et al. 2024 (arXiv 2402.03300), eq. 3. It contains the trajectory at hand, and it makes
    groups that are nearly all right or all wrong weigh more: the expected gradient is not that of
    the mean return (Liu et al. 2025, arXiv 2503.20783, call it a difficulty bias).

    Args:
        floor: Least standard deviation, above 0, in units of return.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        if not 0.0 < floor < np.inf:
            raise ValueError(f"GroupScale: floor is {floor}; give a finite number above 0")
        self.floor = floor
        self._scale_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the deviations; see ``ReturnScale``."""
        group_N = groups(columns)
        weight_N = (~columns.faulted).astype(np.float64)
        count_N = np.maximum(np.bincount(group_N, weight_N), 1.0)
        mean_N = (np.bincount(group_N, weight_N * columns.returns) / count_N)[group_N]
        square_N = weight_N * (columns.returns - mean_N) ** 2
        variance_N = (np.bincount(group_N, square_N) / count_N)[group_N]
        self._scale_N = np.maximum(np.sqrt(variance_N), self.floor)

    def __call__(self, rows_B: Tensor) -> Tensor:
        """The group's deviation."""
        return pick(self._scale_N, rows_B).float()
