"""Behaviour half: objectives that imitate, and so need no probability of the behaviour."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from retro_lightning.credit.diagnostics import effective_sample_size, masked_mean
from retro_lightning.credit.losses import (
    advantage_weighted_cloning,
    advantage_weights,
    filtered_cloning,
    masked_total,
)
from retro_lightning.credit.objective import (
    Objective,
    check_cloning,
    check_gamma,
    check_not_negative,
    returns_and_advantages,
    value_term,
)
from retro_lightning.credit.terms import CreditInputs, LossTerms


class FilteredCloning(Objective):
    """Imitates the trajectories that went well and ignores the others (filtered cloning, %BC).

    Args:
        min_return: Least undiscounted return of a trajectory to be imitated, in the environment's
            units; None = exactly those that succeeded.
        value_coef: Weight of the value head's squared error, over all trajectories; 0 = the value
            head learns nothing.
        gamma: Discount per step, in [0, 1], of the returns that the value head learns.
    """

    name: ClassVar[str] = "filtered_cloning"
    needs_fresh: ClassVar[bool] = False

    def __init__(
        self, min_return: float | None = None, value_coef: float = 0.5, gamma: float = 1.0
    ) -> None:
        check_not_negative(self.name, value_coef=value_coef)
        check_gamma(self.name, gamma)
        self.min_return = min_return
        self.value_coef = value_coef
        self.gamma = gamma

    def __call__(
        self,
        inputs: CreditInputs,
        *,
        normaliser: Tensor | float,
        advantage_scale: Tensor | None = None,
    ) -> LossTerms:
        """See ``Objective``; ``advantage_scale`` is not read."""
        returns_BS, _ = returns_and_advantages(inputs, self.gamma)
        keep_B = inputs.success_B
        if self.min_return is not None:
            total_B = torch.where(inputs.steps_BS, inputs.rewards_BS, 0.0).sum(dim=1)
            keep_B = total_B >= self.min_return
        loss_BS = filtered_cloning(inputs.logprobs_BS, keep_B[:, None])
        policy = masked_total(loss_BS, inputs.steps_BS, inputs.weight_B, normaliser)
        value, value_metrics = value_term(inputs, returns_BS, normaliser)
        metrics = {
            "loss_policy": policy.detach(),
            "entropy": masked_mean(inputs.entropies_BS.detach(), inputs.steps_BS),
            "kept_share": keep_B.to(policy.dtype).mean(),
            **value_metrics,
        }
        return LossTerms(loss=policy + self.value_coef * value, metrics=metrics, advantages_BS=None)


class AdvantageWeightedCloning(Objective):
    """Imitates every trajectory, the better ones more: advantage-weighted regression.

    Args:
        temperature: Advantage, in units of return, that makes a step count e times as much. Lower
            = imitate only the best, higher = imitate everything alike.
        max_weight: Largest weight of a step.
        value_coef: Weight of the value head's squared error; 0 = the value head learns nothing.
        gamma: Discount per step, in [0, 1]. Lower = credit reaches less far back.
    """

    name: ClassVar[str] = "advantage_weighted_cloning"
    needs_fresh: ClassVar[bool] = False

    def __init__(
        self,
        temperature: float = 0.5,
        max_weight: float = 10.0,
        value_coef: float = 0.5,
        gamma: float = 1.0,
    ) -> None:
        check_cloning(self.name, temperature, max_weight)
        check_not_negative(self.name, value_coef=value_coef)
        check_gamma(self.name, gamma)
        self.temperature = temperature
        self.max_weight = max_weight
        self.value_coef = value_coef
        self.gamma = gamma

    def __call__(
        self,
        inputs: CreditInputs,
        *,
        normaliser: Tensor | float,
        advantage_scale: Tensor | None = None,
    ) -> LossTerms:
        """See ``Objective``; ``advantage_scale`` is not read: the temperature is the scale."""
        returns_BS, advantages_BS = returns_and_advantages(inputs, self.gamma)
        loss_BS = advantage_weighted_cloning(
            inputs.logprobs_BS, advantages_BS, self.temperature, self.max_weight
        )
        policy = masked_total(loss_BS, inputs.steps_BS, inputs.weight_B, normaliser)
        value, value_metrics = value_term(inputs, returns_BS, normaliser)
        weights_BS = advantage_weights(advantages_BS, self.temperature, self.max_weight)
        count = inputs.steps_BS.sum().clamp(min=1)
        metrics = {
            "loss_policy": policy.detach(),
            "entropy": masked_mean(inputs.entropies_BS.detach(), inputs.steps_BS),
            "advantage_std": advantages_BS[inputs.steps_BS].std(correction=0),
            "effective_sample_share": effective_sample_size(weights_BS, inputs.steps_BS) / count,
            **value_metrics,
        }
        return LossTerms(
            loss=policy + self.value_coef * value, metrics=metrics, advantages_BS=advantages_BS
        )
