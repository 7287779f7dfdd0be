"""Behaviour half: how much each action counts, and which way its log-probability is moved.

One of the three parts of an ``Estimator``: advantage, weighting, regularisers. ``log_ratio`` is
``log pi - log pi_old`` with gradient; whose ``pi_old`` is, the estimator decides (``reads``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from retro_lightning.credit.diagnostics import clipped, masked_mean
from retro_lightning.credit.losses import (
    advantage_weighted_cloning,
    advantage_weights,
    clipped_surrogate,
    filtered_cloning,
    reinforce_loss,
)
from retro_lightning.credit.objective import check_cloning, check_positive
from retro_lightning.credit.terms import CreditInputs

Reads = Literal["nothing", "behaviour", "proximal"]


class Weighting(ABC):
    """How much each action counts.

    Attributes:
        name: Short name for logs.
        reads: Whose log-probabilities its ratio is taken to: nobody's, the behaviour's, or those of
            the policy at the epoch's start.
        imitates: Whether it makes every action it counts more likely, be it good or bad, so that
            advantages are not normalised and fresh rollouts are not asked for.
        reads_advantages: Whether advantages decide anything.
    """

    name: ClassVar[str]
    reads: ClassVar[Reads] = "nothing"
    imitates: ClassVar[bool] = False
    reads_advantages: ClassVar[bool] = True

    @abstractmethod
    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """Loss of each action (or token), of the shape of ``logprobs``.

        Args:
            logprobs: Log-probability of each action under the policy being trained, with gradient.
            log_ratio: See the module; 0 where there is no ratio to take.
            advantages: Advantage of each, detached.
            inputs: The batch.
        """

    def stopped(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """Where a cap or clip has stopped the gradient, of the shape of ``log_ratio``."""
        return torch.zeros_like(log_ratio, dtype=torch.bool)

    def weights(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """What each action counts, not negative; for the effective sample size."""
        return torch.ones_like(log_ratio)

    def metrics(
        self, inputs: CreditInputs, stopped_BS: Tensor, learnt_BS: Tensor
    ) -> dict[str, Tensor]:
        """What else is worth logging of a batch.

        Args:
            inputs: The batch.
            stopped_BS: Share of each action, 0 to 1, whose gradient has been stopped.
            learnt_BS: Mask of the steps that are learnt from.
        """
        return {}


class Unweighted(Weighting):
    """Every action counts alike: ``-A log pi``.

    Right for actions of the present policy. On others' actions nothing is corrected.
    """

    name: ClassVar[str] = "unweighted"

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return reinforce_loss(logprobs, advantages)


class Clipped(Weighting):
    """The clipped surrogate against the policy at the epoch's start (PPO).

    Where somebody else acted, each step is weighted by ``min(importance_cap, pi_epoch / mu)``
    (decoupled PPO, Hilton et al. 2021, arXiv 2110.00641), so that the clip bounds the update and
    the weight corrects the action, as two things. What the cap leaves is bias towards the
    behaviour; neither past nor future are corrected.

    Args:
        clip: How far the probability of an action may move from the epoch's start, as a ratio,
            before its gradient stops. Lower = more cautious, higher = more reuse.
        importance_cap: Largest weight of another's action, at least 1. Lower = less variance, more
            bias towards what was done then.
    """

    name: ClassVar[str] = "clipped"
    reads: ClassVar[Reads] = "proximal"

    def __init__(self, clip: float = 0.2, importance_cap: float = 2.0) -> None:
        check_positive("Clipped", clip=clip)
        check_cap("Clipped", importance_cap=importance_cap)
        self.clip, self.importance_cap = clip, importance_cap

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return clipped_surrogate(log_ratio, torch.zeros_like(log_ratio), advantages, self.clip)

    def correction(self, log_ratio_BS: Tensor) -> Tensor:
        """Weight of each step from ``log pi_epoch - log mu``."""
        return torch.exp(log_ratio_BS).clamp(max=self.importance_cap)

    def stopped(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """See ``Weighting``."""
        return clipped(log_ratio.exp(), advantages, self.clip)

    def weights(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """See ``Weighting``."""
        return log_ratio.exp()

    def metrics(
        self, inputs: CreditInputs, stopped_BS: Tensor, learnt_BS: Tensor
    ) -> dict[str, Tensor]:
        """See ``Weighting``."""
        return {"clip_fraction": masked_mean(stopped_BS, learnt_BS)}


class Truncated(Weighting):
    """Truncated importance weights of the action at hand (V-trace's rho).

    Corrects the present up to the cap; what the cap leaves is bias towards the behaviour. The past
    is left as it was.

    Args:
        cap: Largest weight, above 0. Lower = less variance, more bias.
    """

    name: ClassVar[str] = "truncated"
    reads: ClassVar[Reads] = "behaviour"

    def __init__(self, cap: float = 1.0) -> None:
        check_positive("Truncated", cap=cap)
        self.cap = cap

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return reinforce_loss(logprobs, self.weights(log_ratio, advantages) * advantages)

    def weights(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """See ``Weighting``."""
        return torch.exp(log_ratio.detach()).clamp(max=self.cap)


class Cumulative(Weighting):
    """Untruncated product of the ratios of this and all earlier actions.

    Corrects past and present entirely. With ``PerDecision`` the gradient's expectation is exactly
    that of the present policy's mean return, whoever acted, if only every action could have been
    taken; its variance grows with the product.
    """

    name: ClassVar[str] = "cumulative"
    reads: ClassVar[Reads] = "behaviour"

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return reinforce_loss(logprobs, self.weights(log_ratio, advantages) * advantages)

    def weights(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """See ``Weighting``."""
        return torch.exp(log_ratio.detach().cumsum(dim=1))


class Exponential(Weighting):
    """Imitates every action, the better ones more (advantage-weighted regression).

    Args:
        temperature: Advantage, in units of return, that makes a step count e times as much. Lower
            = imitate only the best, higher = imitate everything alike.
        max_weight: Largest weight of a step.
    """

    name: ClassVar[str] = "exponential"
    imitates: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.5, max_weight: float = 10.0) -> None:
        check_cloning("Exponential", temperature, max_weight)
        self.temperature, self.max_weight = temperature, max_weight

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return advantage_weighted_cloning(logprobs, advantages, self.temperature, self.max_weight)

    def weights(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """See ``Weighting``."""
        return advantage_weights(advantages, self.temperature, self.max_weight)


class Kept(Weighting):
    """Imitates all actions of trajectories that went well and ignores the others.

    Args:
        min_return: Least undiscounted return of a trajectory to be imitated, in the environment's
            units; None = exactly those that succeeded; -inf = all.
    """

    name: ClassVar[str] = "kept"
    imitates: ClassVar[bool] = True
    reads_advantages: ClassVar[bool] = False

    def __init__(self, min_return: float | None = None) -> None:
        if min_return is not None and math.isnan(min_return):
            raise ValueError("Kept: min_return is nan; give a number, or null for successes alone")
        self.min_return = min_return

    def keep(self, inputs: CreditInputs) -> Tensor:
        """Which trajectories are imitated, of shape [B]."""
        if self.min_return is None:
            return inputs.success_B
        total_B = torch.where(inputs.steps_BS, inputs.rewards_BS, 0.0).sum(dim=1)
        return total_B >= self.min_return

    def losses(
        self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, inputs: CreditInputs
    ) -> Tensor:
        """See ``Weighting``."""
        return filtered_cloning(logprobs, self.keep(inputs)[:, None])

    def metrics(
        self, inputs: CreditInputs, stopped_BS: Tensor, learnt_BS: Tensor
    ) -> dict[str, Tensor]:
        """See ``Weighting``."""
        return {"kept_share": self.keep(inputs).to(inputs.weight_B.dtype).mean()}


def check_cap(owner: str, **values: float) -> None:
    """Refuse a largest importance weight below 1, by name."""
    for name, value in values.items():
        if not 1.0 <= value < math.inf:
            raise ValueError(
                f"{owner}: {name} is {value}; give a finite number of at least 1, or else steps "
                "of the present policy itself would be weighted down"
            )
