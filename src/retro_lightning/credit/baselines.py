"""Behaviour half: what is subtracted from the return to lower the variance of the gradient.

A baseline may depend on anything but the trajectory it is applied to; then the expected gradient
stays what it is (Williams 1992; Greensmith et al. 2004). So the statistics come from the whole
store, never from the curriculum's sample, and leave the trajectory at hand out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit.statistics import Floats, Outcomes, others_mean, others_total, pick
from retro_lightning.trajectory import Trajectory

Read = Callable[[Sequence[int]], Sequence[Trajectory]]
"""Reads the trajectories of some rows of the columns of the last ``update``."""


class Baseline(ABC):
    """What is subtracted from the return-to-go.

    Attributes:
        needs_value_head: Whether it is the value head's estimate, so that the value loss must not
            be switched off.
        needs_groups: Whether it compares the attempts of a group (same task, policy version,
            behaviour and run), so that a gradient step should hold whole groups.
        needs_whole_step: Whether it is a statistic of all trajectories of the gradient step, so
            that the step can't be taken in parts.
    """

    needs_value_head: bool = False
    needs_groups: bool = False
    needs_whole_step: bool = False

    def attach(self, read: Read) -> None:  # noqa: B027 (most baselines have no use for it)
        """Give it the means of reading whole trajectories, before ``update``."""

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


class Constant(Baseline):
    """Subtracts one number, chosen beforehand.

    Args:
        value: The number, in units of return.
    """

    def __init__(self, value: float = 0.5) -> None:
        if not np.isfinite(value):
            raise ValueError(f"Constant: value is {value}; give a finite number")
        self.value = value

    def update(self, columns: Outcomes) -> None:
        """Nothing to renew."""

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The number."""
        return torch.full_like(values_BS, self.value)


class ValueHeadBaseline(Baseline):
    """Subtracts the value head's estimate of the state before each action.

    Where the head is cross-fitted (``value_head.cross_fit``), the estimate is that of the head
    which never learns from the trajectory at hand. A single head has learnt from earlier uses of
    it, so that it is independent of trajectories that are used for the first time only.
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
        return each_step(self._baseline_N, rows_B, values_BS)


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
        total_N, count_N = others_total(columns.returns, weight_N, columns.task_id)
        self._baseline_N = (total_N + self.prior_weight * family_N) / (count_N + self.prior_weight)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The shrunk mean over the others, the same at every step."""
        return each_step(self._baseline_N, rows_B, values_BS)


class BatchMean(Baseline):
    """Subtracts the mean return of the other trajectories of the gradient step.

    Unlike all others it depends on what the curriculum drew: with a curriculum that prefers
    successes it is higher than the store's mean. Repetitions of the trajectory at hand are left
    out. It is a mean over the whole gradient step, which no part of one can know.
    """

    needs_whole_step = True

    def __init__(self) -> None:
        self._returns_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Remember the returns; see ``Baseline``."""
        self._returns_N = columns.returns

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The mean over the others, 0 if there are none; the same at every step."""
        returns_B = pick(self._returns_N, rows_B)
        other_BB = (rows_B[:, None] != rows_B[None, :]).to(returns_B)
        mean_B = (other_BB @ returns_B) / other_BB.sum(dim=1).clamp(min=1.0)
        return mean_B.to(values_BS)[:, None].expand_as(values_BS)


def each_step(baseline_N: Floats, rows_B: Tensor, values_BS: Tensor) -> Tensor:
    """A statistic of each trajectory as the baseline of all its steps."""
    return pick(baseline_N, rows_B).to(values_BS)[:, None].expand_as(values_BS)
