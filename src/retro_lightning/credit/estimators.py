"""Behaviour half: all objectives by name, and the one that mixes sources of trajectories."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from retro_lightning.credit.cloning import (
    AdvantageWeightedCloning,
    FilteredCloning,
    ReturnConditioned,
)
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.diagnostics import (
    NOTHING,
    approximate_kl,
    clip_fraction,
    clipped,
    effective_sample_size,
    gradient_shares,
    masked_mean,
)
from retro_lightning.credit.losses import (
    advantage_weighted_cloning,
    advantage_weights,
    clipped_surrogate,
    masked_total,
    reinforce_loss,
    truncated_importance_weights,
)
from retro_lightning.credit.objective import (
    Objective,
    ValueTarget,
    ValueWeighting,
    bootstrap_values,
    check_cloning,
    check_gamma,
    check_not_negative,
    check_pair,
    check_positive,
    returns_and_advantages,
    value_term,
)
from retro_lightning.credit.presets import (
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    PerDecisionImportanceSampling,
    VTraceActorCritic,
)
from retro_lightning.credit.ratios import learnt_steps, log_ratio_to_behaviour
from retro_lightning.credit.returns import vtrace
from retro_lightning.credit.scales import advantage_moments, advantage_std
from retro_lightning.credit.terms import CreditInputs, LossTerms
from retro_lightning.credit.weightings import check_cap

__all__ = [
    "GRPO",
    "PPO",
    "REINFORCE",
    "RLOO",
    "AdvantageWeightedCloning",
    "CreditInputs",
    "Estimator",
    "FilteredCloning",
    "LossTerms",
    "Objective",
    "PerDecisionImportanceSampling",
    "PolicyGradient",
    "ReturnConditioned",
    "VTraceActorCritic",
    "check_pair",
    "sources",
]


class PolicyGradient(Objective):
    """Policy gradient with return-to-go on fresh, stale and foreign trajectories together.

    Each step falls to the first source that fits: *fresh* (collected by the present collection's
    policy) is learnt from by the clipped surrogate; *stale* (the behaviour's probability of every
    valid action is known and positive) by truncated importance weights; all else (experts, unknown
    behaviour) by advantage-weighted *cloning*, which imitates and is no policy gradient. What is
    not corrected: that older behaviours visited other states, and went on differently afterwards,
    than the present policy would; the return-to-go is that of whoever acted.

    Args:
        clip: How far the probability of a fresh action may move, as a ratio to when it was
            collected, before its gradient stops. Lower = more cautious, higher = more reuse.
        importance_cap: Largest importance weight of a stale step, at least 1. Lower = less
            variance, more bias towards what was done then.
        cloning_coef: Weight of the cloning term; 0 ignores steps whose behaviour gives no ratio.
        cloning_temperature: Advantage, in units of return, that makes a cloned step count e times
            as much. Lower = imitate only the best, higher = imitate everything alike.
        cloning_max_weight: Largest weight of a cloned step.
        entropy_coef: Reward for the entropy of the policy, per step and nat, at every step of the
            batch. Higher = explores longer.
        value_coef: Weight of the value head's squared error; 0 = the value head learns nothing.
        gamma: Discount per step, in [0, 1]. Lower = credit reaches less far back.
        normalise_advantages: Divide the advantages of fresh and stale steps by their standard
            deviation over the gradient step. Cloning uses them as they are.
        value_target: What the value head learns: behaviour = the return-to-go of whoever acted, in
            the mean over the whole store; current = the present policy's own value (V-trace with
            caps of 1), from trajectories that are fresh or stale throughout, as they are drawn.
        value_weighting: How much a step counts for the value head: steps = all alike, so that it
            learns the mean; score = by the squared length of the action's score, so that it learns
            ``E n G / E n``, the baseline that leaves the least variance (Greensmith et al. 2004),
            which lies below the value where the policy is sure. Valid actions only.
    """

    name = "policy_gradient"
    needs_fresh = True

    def __init__(
        self,
        clip: float = 0.2,
        importance_cap: float = 2.0,
        cloning_coef: float = 1.0,
        cloning_temperature: float = 0.5,
        cloning_max_weight: float = 10.0,
        entropy_coef: float = 0.01,
        value_coef: float = 0.5,
        gamma: float = 1.0,
        normalise_advantages: bool = True,
        value_target: ValueTarget = "behaviour",
        value_weighting: ValueWeighting = "steps",
    ) -> None:
        check_positive(self.name, clip=clip)
        check_not_negative(self.name, cloning_coef=cloning_coef, value_coef=value_coef)
        check_not_negative(self.name, entropy_coef=entropy_coef)
        check_cloning(self.name, cloning_temperature, cloning_max_weight, prefix="cloning_")
        check_gamma(self.name, gamma)
        check_cap(self.name, importance_cap=importance_cap)
        self.clip = clip
        self.importance_cap = importance_cap
        self.cloning_coef = cloning_coef
        self.cloning_temperature = cloning_temperature
        self.cloning_max_weight = cloning_max_weight
        self.entropy_coef = entropy_coef
        self.value_coef = value_coef
        self.gamma = gamma
        self.normalise_advantages = normalise_advantages
        self.value_target = value_target
        self.value_weighting = value_weighting
        self.needs_scores = value_weighting == "score"

    def __call__(
        self,
        inputs: CreditInputs,
        *,
        normaliser: Tensor | float,
        advantage_scale: Tensor | None = None,
    ) -> LossTerms:
        """See ``Objective``."""
        advantages_BS = self.advantages(inputs)
        scaled_BS = self._scaled(advantages_BS, inputs.steps_BS, advantage_scale)
        masks = sources(inputs)
        # Where there is no ratio to take, the policy itself stands in: no NaN may reach exp.
        logprobs_BS = torch.where(inputs.steps_BS, inputs.logprobs_BS, 0.0)
        rated_BS = masks["fresh"] | masks["stale"]
        old_BS = torch.where(rated_BS, inputs.behaviour_logprobs_BS, logprobs_BS).detach()
        losses = self._losses(logprobs_BS, old_BS, scaled_BS, advantages_BS)
        policy = torch.stack(
            [masked_total(losses[k], m, inputs.weight_B, normaliser) for k, m in masks.items()]
        ).sum()
        entropy = masked_total(inputs.entropies_BS, inputs.steps_BS, inputs.weight_B, normaliser)
        value, value_metrics = self._value_term(inputs, normaliser)
        coefficients = self._coefficients(logprobs_BS.detach(), old_BS, scaled_BS, advantages_BS)
        pull_BS = torch.stack([coefficients[k] * mask for k, mask in masks.items()]).sum(dim=0)
        shares = gradient_shares(
            {k: masked_total(coefficients[k], m, inputs.weight_B, 1.0) for k, m in masks.items()}
        )
        metrics = {
            "loss_policy": policy.detach(),
            "entropy": masked_mean(inputs.entropies_BS.detach(), inputs.steps_BS),
            "advantage_std": advantages_BS[inputs.steps_BS].std(correction=0),
            **value_metrics,
            **{f"gradient_share/{name}": share for name, share in shares.items()},
            **self._ratio_metrics(masks, logprobs_BS.detach() - old_BS, scaled_BS),
        }
        return LossTerms(
            loss=policy - self.entropy_coef * entropy + self.value_coef * value,
            metrics=metrics,
            advantages_BS=advantages_BS,
            excluded_BS=pull_BS < NOTHING,
        )

    def _scaled(self, advantages_BS: Tensor, steps_BS: Tensor, scale: Tensor | None) -> Tensor:
        """Advantages of fresh and stale steps."""
        if not self.normalise_advantages:
            return advantages_BS
        if scale is None:
            scale = advantage_std(advantage_moments(advantages_BS, steps_BS))
        return advantages_BS / scale

    def _value_term(
        self, inputs: CreditInputs, normaliser: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value head's loss, by ``value_target`` and ``value_weighting``, and its metrics."""
        learner = inputs.for_learner()
        targets_BS, _ = returns_and_advantages(learner, self.gamma)
        learnt_BS, weight_BS = inputs.steps_BS, torch.ones(())
        if self.value_target == "current":
            targets_BS, _ = vtrace(
                inputs.rewards_BS,
                learner.values_BS.detach(),
                log_ratio_to_behaviour(inputs.logprobs_BS, inputs),
                inputs.steps_BS,
                self.gamma,
                bootstrap_value_B=bootstrap_values(learner),
            )
            learnt_BS = learnt_steps(inputs, "leave_out", self.name)
            inputs = replace(inputs, value_weight_B=None)
        if self.value_weighting == "score":
            if inputs.score_norms_BS is None:
                raise ValueError(
                    f"{self.name}: value_weighting score needs the scores of valid actions, and "
                    "this batch has free text: set it to steps"
                )
            weight_BS = inputs.score_norms_BS
        return value_term(inputs, targets_BS, normaliser, learnt_BS, weight_BS)

    def _losses(
        self, logprobs_BS: Tensor, old_BS: Tensor, scaled_BS: Tensor, advantages_BS: Tensor
    ) -> dict[str, Tensor]:
        """Loss of each step if it fell to the source named."""
        weights_BS = truncated_importance_weights(logprobs_BS, old_BS, self.importance_cap)
        cloning_BS = advantage_weighted_cloning(
            logprobs_BS, advantages_BS, self.cloning_temperature, self.cloning_max_weight
        )
        return {
            "fresh": clipped_surrogate(logprobs_BS, old_BS, scaled_BS, self.clip),
            "stale": reinforce_loss(logprobs_BS, weights_BS * scaled_BS),
            "cloning": self.cloning_coef * cloning_BS,
        }

    def _coefficients(
        self, logprobs_BS: Tensor, old_BS: Tensor, scaled_BS: Tensor, advantages_BS: Tensor
    ) -> dict[str, Tensor]:
        """Size of the derivative of each of ``_losses`` by ``log pi``, in closed form."""
        ratio_BS = torch.exp(logprobs_BS - old_BS)
        stopped_BS = clipped(ratio_BS, scaled_BS, self.clip)
        cloning_BS = advantage_weights(
            advantages_BS, self.cloning_temperature, self.cloning_max_weight
        )
        return {
            "fresh": torch.where(stopped_BS, 0.0, ratio_BS * scaled_BS.abs()),
            "stale": ratio_BS.clamp(max=self.importance_cap) * scaled_BS.abs(),
            "cloning": self.cloning_coef * cloning_BS,
        }

    def _ratio_metrics(
        self, masks: dict[str, Tensor], log_ratio_BS: Tensor, scaled_BS: Tensor
    ) -> dict[str, Tensor]:
        """Share of the steps of each source, and how far the ratios are from 1."""
        fresh_BS, stale_BS = masks["fresh"], masks["stale"]
        ratio_BS = log_ratio_BS.exp()
        count = torch.stack([mask.sum() for mask in masks.values()]).sum().clamp(min=1)
        metrics = {f"step_share/{name}": mask.sum() / count for name, mask in masks.items()}
        if bool(fresh_BS.any()):
            metrics["clip_fraction"] = clip_fraction(ratio_BS, scaled_BS, self.clip, fresh_BS)
            metrics["approximate_kl"] = masked_mean(approximate_kl(log_ratio_BS), fresh_BS)
        if bool(stale_BS.any()):
            weights_BS = ratio_BS.clamp(max=self.importance_cap)
            size = effective_sample_size(weights_BS, stale_BS)
            metrics["effective_sample_share"] = size / stale_BS.sum()
        return metrics


def sources(inputs: CreditInputs) -> dict[str, Tensor]:
    """Which source each step falls to; the masks are disjoint and together are ``steps_BS``.

    Args:
        inputs: The batch.

    Returns:
        ``fresh``, ``stale`` and ``cloning``, each of shape [B, S].
    """
    known_BS = inputs.steps_BS & torch.isfinite(inputs.behaviour_logprobs_BS)
    fresh_BS = known_BS & inputs.fresh_B[:, None]
    stale_BS = known_BS & inputs.supported_BS & ~fresh_BS
    return {
        "fresh": fresh_BS,
        "stale": stale_BS,
        "cloning": inputs.steps_BS & ~fresh_BS & ~stale_BS,
    }
