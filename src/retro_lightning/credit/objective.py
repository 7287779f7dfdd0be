"""Behaviour half: what every objective is and what all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.diagnostics import explained_variance
from retro_lightning.credit.group_baselines import AnchorStates
from retro_lightning.credit.losses import masked_total, value_loss
from retro_lightning.credit.returns import returns_to_go
from retro_lightning.credit.terms import CreditInputs, LossTerms

LossNormalisation = Literal["step", "episode", "constant", "token"]
ValueTarget = Literal["behaviour", "current"]
ValueWeighting = Literal["steps", "score"]


class Objective(ABC):
    """What is minimised in a gradient step.

    Attributes:
        name: Short name for logs.
        needs_fresh: Whether it learns from trajectories of the present policy, so that rollouts
            are worth collecting while it is in force.
        needs_proximal: Whether it reads ``proximal_logprobs_BS``.
        needs_tokens: Whether it reads the log-probabilities of single token choices.
        needs_reference: Whether it reads what the reference policy says.
        needs_scores: Whether it reads ``score_norms_BS``.
        baselines: Baselines that it goes with; empty = any.
        normalise_advantages: Whether it divides advantages by their standard deviation over the
            gradient step, so that the step can't be taken in parts.
        loss_normalisation: What the sum of the steps' losses is divided by.
        value_target: Whose value the value head learns: the behaviour's or the present policy's.
        value_coef: Weight of the value loss; 0 = the value head learns nothing.
        gamma: Discount per step.
    """

    name: str = ""
    needs_fresh: bool
    needs_proximal: bool = False
    needs_tokens: bool = False
    needs_reference: bool = False
    needs_scores: bool = False
    baselines: ClassVar[tuple[type[Baseline], ...]] = ()
    normalise_advantages: bool = False
    loss_normalisation: LossNormalisation = "step"
    value_target: ValueTarget = "behaviour"
    value_coef: float
    gamma: float

    def advantages(self, inputs: CreditInputs) -> Tensor:
        """Advantages before they are divided by anything that the whole gradient step decides."""
        return returns_and_advantages(inputs, self.gamma)[1]

    def count(self, inputs: CreditInputs) -> Tensor:
        """What a part adds to the normaliser of its gradient step: its steps."""
        return inputs.steps_BS.sum().float()

    @abstractmethod
    def __call__(
        self,
        inputs: CreditInputs,
        *,
        normaliser: Tensor | float,
        advantage_scale: Tensor | None = None,
    ) -> LossTerms:
        """Loss and metrics of a gradient step, or of a part of one.

        Args:
            inputs: The trajectories of the part.
            normaliser: ``count`` of the whole gradient step, over parts and processes.
            advantage_scale: ``advantage_std`` of the whole gradient step, read where advantages
                are normalised; None = ``inputs`` are the whole gradient step.
        """


def check_pair(objective: Objective, baseline: Baseline) -> None:
    """Refuse an objective and a baseline that contradict each other.

    Raises:
        ValueError: If the baseline is the value head's estimate and the objective never trains it,
            if the objective goes with other baselines, or if their discounts differ.
    """
    if objective.baselines and not isinstance(baseline, objective.baselines):
        wanted = " or ".join(kind.__name__ for kind in objective.baselines)
        raise ValueError(
            f"{objective.name} goes with the baseline {wanted}, not {type(baseline).__name__}: set "
            f"model.baseline, or compose an Estimator of the same parts for another one"
        )
    if isinstance(baseline, AnchorStates) and baseline.gamma != objective.gamma:
        raise ValueError(
            f"the baseline AnchorStates discounts by gamma {baseline.gamma} and {objective.name} "
            f"by {objective.gamma}: give both the same"
        )
    if baseline.needs_value_head and objective.value_coef == 0:
        raise ValueError(
            f"the baseline {type(baseline).__name__} is the value head's estimate, but "
            f"{objective.name} has value_coef 0 and never trains it: raise value_coef or choose "
            "another baseline"
        )


def returns_and_advantages(inputs: CreditInputs, gamma: float) -> tuple[Tensor, Tensor]:
    """Return-to-go and its excess over the baseline, both detached and 0 at padding.

    Args:
        inputs: The batch.
        gamma: Discount per step.

    Returns:
        ``returns_BS`` and ``advantages_BS``, in units of return.
    """
    after_B = bootstrap_values(inputs)
    returns_BS = returns_to_go(inputs.rewards_BS, inputs.steps_BS, gamma, after_B).detach()
    return returns_BS, excess(returns_BS, inputs)


def bootstrap_values(inputs: CreditInputs) -> Tensor:
    """Value after the last step, detached; 0 where the episode really ended."""
    return torch.where(inputs.bootstrap_B, inputs.final_values_B, 0.0).detach()


def excess(returns_BS: Tensor, inputs: CreditInputs) -> Tensor:
    """Returns less the baseline, over the trajectory's scale; 0 at padding."""
    excess_BS = returns_BS - inputs.baseline_BS.detach()
    if inputs.scale_B is not None:
        excess_BS = excess_BS / inputs.scale_B[:, None]
    return torch.where(inputs.steps_BS, excess_BS, 0.0)


def episodes_alike(inputs: CreditInputs) -> CreditInputs:
    """With weights, of both losses, by which every episode counts alike, however long it is."""
    length_B = inputs.steps_BS.sum(dim=1).clamp(min=1)
    value_weight_B = inputs.value_weight_B
    if value_weight_B is None:
        value_weight_B = torch.ones_like(inputs.weight_B)
    return replace(
        inputs, weight_B=inputs.weight_B / length_B, value_weight_B=value_weight_B / length_B
    )


def value_term(
    inputs: CreditInputs,
    targets_BS: Tensor,
    normaliser: Tensor | float,
    learnt_BS: Tensor | None = None,
    weight_BS: Tensor | float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Value loss, and how well the value head predicts what it learns, as the baseline has it.

    Args:
        inputs: The batch.
        targets_BS: What the value head learns, detached; made ``for_learner``.
        normaliser: Number of steps in the whole gradient step.
        learnt_BS: Steps that it learns from; None = all.
        weight_BS: How much each counts.

    Returns:
        Scalar loss with gradient, and metrics.
    """
    weight_B = inputs.value_weight_B
    if weight_B is None:
        weight_B = torch.ones_like(inputs.weight_B)
    if learnt_BS is None:
        learnt_BS = inputs.steps_BS
    loss_BS = weight_BS * value_loss(inputs.for_learner().values_BS, targets_BS)
    total = masked_total(loss_BS, learnt_BS, weight_B, normaliser)
    metrics = {"loss_value": total.detach()}
    if bool(learnt_BS.any()):
        explained = explained_variance(inputs.values_BS.detach(), targets_BS, learnt_BS)
        if bool(torch.isfinite(explained)):
            metrics["explained_variance"] = explained
    return total, metrics


def check_positive(owner: str, **values: float) -> None:
    """Refuse arguments of ``owner`` that are not finite and above 0, by name."""
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{owner}: {name} is {value}; give a finite number above 0")


def check_not_negative(owner: str, **values: float) -> None:
    """Refuse arguments of ``owner`` that are not finite and at least 0, by name."""
    for name, value in values.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{owner}: {name} is {value}; give a finite number of at least 0")


def check_cloning(owner: str, temperature: float, max_weight: float, prefix: str = "") -> None:
    """Refuse a temperature not above 0 or a largest weight below 1, by name."""
    check_positive(owner, **{f"{prefix}temperature": temperature})
    if not 1.0 <= max_weight < math.inf:
        raise ValueError(
            f"{owner}: {prefix}max_weight is {max_weight}; give a finite number of at least 1, the "
            "weight of a step with advantage 0"
        )


def check_gamma(owner: str, gamma: float) -> None:
    """Refuse a discount outside [0, 1]."""
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"{owner}: gamma is {gamma}; give a number between 0 and 1")
