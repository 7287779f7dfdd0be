"""Behaviour half: an estimator of the policy gradient, composed of orthogonal parts.

Advantage (what an action is credited with) times weighting (how much it counts), plus regularisers
(entropy, KL to a reference) and the value head's loss. Named compositions stand in ``presets.py``
and ``cloning.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from retro_lightning.credit.advantages import Advantage, ReturnToGo, VTrace
from retro_lightning.credit.contradictions import contradiction
from retro_lightning.credit.diagnostics import NOTHING
from retro_lightning.credit.estimator_metrics import estimator_metrics
from retro_lightning.credit.losses import masked_total
from retro_lightning.credit.objective import (
    LossNormalisation,
    Objective,
    ValueTarget,
    bootstrap_values,
    check_gamma,
    check_not_negative,
    episodes_alike,
    excess,
    value_term,
)
from retro_lightning.credit.ratios import (
    UnknownBehaviour,
    learnt_steps,
    log_ratio_to_behaviour,
)
from retro_lightning.credit.returns import returns_to_go, vtrace
from retro_lightning.credit.scales import advantage_moments, advantage_std
from retro_lightning.credit.terms import CreditInputs, LossTerms
from retro_lightning.credit.token_level import stopped_share, token_losses
from retro_lightning.credit.weightings import Clipped, Unweighted, Weighting

RatioLevel = Literal["action", "token", "length_normalised"]
KLForm = Literal["exact", "k2", "reward"]


class Estimator(Objective):
    """A policy gradient composed of an advantage, a weighting and regularisers.

    Args:
        advantage: What an action is credited with; the baseline is subtracted from it.
        weighting: How much each action counts.
        entropy_coef: Reward for the entropy of the policy, per step and nat. Higher = explores
            longer.
        kl_coef: Cost of moving away from the reference policy, per step and nat. Higher = stays
            closer.
        kl_form: exact = in the loss, summed over the children of each visited decision (valid
            actions only); k2 = half the squared log-ratio of the action taken, in the loss; reward
            = the log-ratio taken off the reward of the step, so that earlier actions answer for it.
        value_coef: Weight of the value head's squared error; 0 = the value head learns nothing.
        value_target: What the value head learns: behaviour = the return-to-go of whoever acted;
            current = the V-trace value of the present policy, with the caps of the advantage if
            that is VTrace, else 1.
        gamma: Discount per step, in [0, 1]. Lower = credit reaches less far back. Below 1, the
            factor gamma^s of the exact gradient is left out, as is usual.
        normalise_advantages: Divide advantages by their standard deviation over the gradient step.
        ratio_level: Ratios are of whole actions, of single tokens (free text), or of actions to the
            power of one over their number of tokens; only the clipped weighting knows the others.
        loss_normalisation: The sum of the steps' losses is divided by the number of steps, or of
            tokens (choices, forced ones not counted); constant = by the number of trajectories, so
            that its gradient is that of the mean return; episode = mean over each episode's steps,
            then over episodes, so that steps of short episodes count more.
        unknown_behaviour: What becomes of steps whose ratio to the behaviour is needed and unknown:
            refuse = an error; leave_out = they are not learnt from (but for a value head whose
            target is the behaviour's return); as_present = as if the present policy had acted,
            which is biased.

    Raises:
        ValueError: If an argument is impossible or two of them contradict each other.
    """

    def __init__(
        self,
        advantage: Advantage | None = None,
        weighting: Weighting | None = None,
        entropy_coef: float = 0.0,
        kl_coef: float = 0.0,
        kl_form: KLForm = "exact",
        value_coef: float = 0.5,
        value_target: ValueTarget = "behaviour",
        gamma: float = 1.0,
        normalise_advantages: bool = False,
        ratio_level: RatioLevel = "action",
        loss_normalisation: LossNormalisation = "step",
        unknown_behaviour: UnknownBehaviour = "refuse",
    ) -> None:
        self.advantage = advantage if advantage is not None else ReturnToGo()
        self.weighting = weighting if weighting is not None else Unweighted()
        if not self.name:
            self.name = f"{self.advantage.name}+{self.weighting.name}"
        self.entropy_coef, self.kl_coef, self.kl_form = entropy_coef, kl_coef, kl_form
        self.value_coef, self.value_target, self.gamma = value_coef, value_target, gamma
        self.normalise_advantages = normalise_advantages
        self.ratio_level, self.loss_normalisation = ratio_level, loss_normalisation
        self.unknown_behaviour = unknown_behaviour
        self.needs_fresh = not self.weighting.imitates
        self.needs_proximal = self.weighting.reads == "proximal"
        self.needs_tokens = ratio_level == "token"
        self.needs_reference = kl_coef > 0
        self._check()

    def _check(self) -> None:
        """Refuse arguments that are impossible or contradict each other, by name."""
        check_not_negative(
            self.name,
            entropy_coef=self.entropy_coef,
            kl_coef=self.kl_coef,
            value_coef=self.value_coef,
        )
        check_gamma(self.name, self.gamma)
        if self.kl_form not in get_args(KLForm):
            raise ValueError(
                f"{self.name}: kl_form is {self.kl_form!r}; give {' or '.join(get_args(KLForm))}"
            )
        sentence = contradiction(self)
        if sentence is not None:
            raise ValueError(f"{self.name}: {sentence}")

    # ------------------------------------------------------------------ credit
    @property
    def needs_behaviour(self) -> bool:
        """Whether a ratio to the behaviour is taken anywhere."""
        return (
            self.weighting.reads != "nothing"
            or self.advantage.needs_ratio
            or self.value_target == "current"
        )

    def advantages(self, inputs: CreditInputs) -> Tensor:
        """See ``Objective``."""
        return self._credit(inputs, self._log_ratio(inputs)[0])[1]

    def count(self, inputs: CreditInputs) -> Tensor:
        """See ``Objective``: steps, tokens or trajectories."""
        if self.loss_normalisation == "step":
            return super().count(inputs)
        if self.loss_normalisation == "token":
            return self._given(inputs, "decisions_BS").sum().float()
        return inputs.steps_BS.any(dim=1).sum().float()

    def _given(self, inputs: CreditInputs, name: str) -> Tensor:
        """An optional input that is needed here."""
        value: Tensor | None = getattr(inputs, name)
        if value is None:
            raise ValueError(
                f"{self.name} (ratio_level {self.ratio_level}, loss_normalisation "
                f"{self.loss_normalisation}, kl_form {self.kl_form}) needs {name}, which this "
                "batch doesn't have"
            )
        return value

    def _log_ratio(self, inputs: CreditInputs) -> tuple[Tensor, Tensor]:
        """``log pi - log mu``, detached, 0 where it is unknown; and which steps are learnt from."""
        log_ratio_BS = log_ratio_to_behaviour(inputs.logprobs_BS, inputs)
        if not self.needs_behaviour:
            return log_ratio_BS, inputs.steps_BS
        return log_ratio_BS, learnt_steps(inputs, self.unknown_behaviour, self.name)

    def _credit(self, inputs: CreditInputs, log_ratio_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The value head's targets and the advantages, detached and 0 at padding."""
        after_B = bootstrap_values(inputs)
        if self.kl_coef > 0 and self.kl_form == "reward":
            cost_BS = inputs.logprobs_BS - self._given(inputs, "reference_logprobs_BS")
            rewards_BS = inputs.rewards_BS - self.kl_coef * cost_BS.detach()
            inputs = replace(inputs, rewards_BS=rewards_BS)
        returns_BS = self.advantage.returns(inputs, log_ratio_BS, self.gamma, after_B).detach()
        return self._targets(inputs.for_learner(), log_ratio_BS), excess(returns_BS, inputs)

    def _targets(self, inputs: CreditInputs, log_ratio_BS: Tensor) -> Tensor:
        """What the value head learns, detached."""
        after_B = bootstrap_values(inputs)
        if self.value_target == "behaviour":
            return returns_to_go(inputs.rewards_BS, inputs.steps_BS, self.gamma, after_B).detach()
        caps = self.advantage if isinstance(self.advantage, VTrace) else VTrace()
        return vtrace(
            inputs.rewards_BS,
            inputs.values_BS.detach(),
            log_ratio_BS,
            inputs.steps_BS,
            self.gamma,
            rho_cap=caps.rho_cap,
            c_cap=caps.c_cap,
            bootstrap_value_B=after_B,
        )[0]

    # ------------------------------------------------------------------ loss
    def __call__(
        self,
        inputs: CreditInputs,
        *,
        normaliser: Tensor | float,
        advantage_scale: Tensor | None = None,
    ) -> LossTerms:
        """See ``Objective``."""
        behaviour_BS, learnt_BS = self._log_ratio(inputs)
        targets_BS, advantages_BS = self._credit(inputs, behaviour_BS)
        scaled_BS = advantages_BS
        if self.normalise_advantages:
            if advantage_scale is None:
                moments = advantage_moments(advantages_BS, inputs.steps_BS)
                advantage_scale = advantage_std(moments)
            scaled_BS = advantages_BS / advantage_scale
        if self.loss_normalisation == "episode":
            inputs = episodes_alike(inputs)
        log_ratio_BS = self._ratio(inputs, behaviour_BS)
        loss_BS = self._losses(inputs, log_ratio_BS, behaviour_BS, scaled_BS)
        policy = masked_total(loss_BS, learnt_BS, inputs.weight_B, normaliser)
        valued_BS = learnt_BS if self.value_target == "current" else inputs.steps_BS
        value, value_metrics = value_term(inputs, targets_BS, normaliser, valued_BS)
        loss = policy + self.value_coef * value
        if self.entropy_coef > 0:
            entropy = masked_total(inputs.entropies_BS, learnt_BS, inputs.weight_B, normaliser)
            loss = loss - self.entropy_coef * entropy
        if self.kl_coef > 0 and self.kl_form != "reward":
            cost = masked_total(self._kl(inputs), learnt_BS, inputs.weight_B, normaliser)
            loss = loss + self.kl_coef * cost
        detached_BS = log_ratio_BS.detach()
        stopped_BS = self._stopped(inputs, detached_BS, scaled_BS)
        reads = self.weighting.reads_advantages
        return LossTerms(
            loss=loss,
            metrics={
                "loss_policy": policy.detach(),
                **estimator_metrics(self, inputs, detached_BS, advantages_BS, learnt_BS),
                **value_metrics,
                **self.weighting.metrics(inputs, stopped_BS, learnt_BS),
            },
            advantages_BS=advantages_BS if reads else None,
            excluded_BS=(stopped_BS == 1.0) | ~learnt_BS if reads else None,
        )

    def _ratio(self, inputs: CreditInputs, behaviour_BS: Tensor) -> Tensor:
        """Log-ratio of each action to what the weighting reads; with gradient if proximal."""
        if self.weighting.reads != "proximal":
            return behaviour_BS
        old_BS = self._given(inputs, "proximal_logprobs_BS").detach()
        log_ratio_BS = torch.where(inputs.steps_BS, inputs.logprobs_BS - old_BS, 0.0)
        if self.ratio_level == "length_normalised":
            log_ratio_BS = log_ratio_BS / self._given(inputs, "decisions_BS").clamp(min=1)
        return log_ratio_BS

    def _losses(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, behaviour_BS: Tensor, scaled_BS: Tensor
    ) -> Tensor:
        """Loss of each step; what stands at padding is of no account."""
        logprobs_BS = torch.where(inputs.steps_BS, inputs.logprobs_BS, 0.0)
        if not isinstance(self.weighting, Clipped):
            return self.weighting.losses(logprobs_BS, log_ratio_BS, scaled_BS, inputs)
        if self.ratio_level == "token":
            self._need_tokens(inputs)
            loss_BS = token_losses(self.weighting, inputs, scaled_BS)
        else:
            loss_BS = self.weighting.losses(logprobs_BS, log_ratio_BS, scaled_BS, inputs)
        return self._correction(self.weighting, inputs) * loss_BS

    def _correction(self, weighting: Clipped, inputs: CreditInputs) -> Tensor:
        """Weight of each step from ``log pi_epoch - log mu``, from what is known of both."""
        old_BS = self._given(inputs, "proximal_logprobs_BS")
        return weighting.correction(log_ratio_to_behaviour(old_BS, inputs))

    def _need_tokens(self, inputs: CreditInputs) -> None:
        for name in ("logprobs", "proximal_logprobs", "row", "step"):
            self._given(inputs, f"token_{name}_D")

    def _stopped(self, inputs: CreditInputs, log_ratio_BS: Tensor, scaled_BS: Tensor) -> Tensor:
        """Share of each action that no longer moves: clipped, or of a weight that is nothing.

        0 or 1; at the level of tokens the share of its tokens.
        """
        weights_BS = self.weighting.weights(log_ratio_BS, scaled_BS)
        stopped_BS = self.weighting.stopped(log_ratio_BS, scaled_BS).to(scaled_BS.dtype)
        if isinstance(self.weighting, Clipped):
            weights_BS = weights_BS * self._correction(self.weighting, inputs)
            if self.ratio_level == "token":
                weights_BS = self._correction(self.weighting, inputs)
                stopped_BS = stopped_share(self.weighting, inputs, scaled_BS)
        return stopped_BS.masked_fill(weights_BS < NOTHING, 1.0)

    def _kl(self, inputs: CreditInputs) -> Tensor:
        """Cost of each step for having moved away from the reference, with gradient."""
        if self.kl_form == "exact":
            if inputs.reference_kl_BS is None and inputs.reference_logprobs_BS is not None:
                raise ValueError(
                    f"{self.name}: kl_form exact sums over valid actions, and this batch has free "
                    "text: set it to k2 or reward"
                )
            return self._given(inputs, "reference_kl_BS")
        log_ratio_BS = inputs.logprobs_BS - self._given(inputs, "reference_logprobs_BS").detach()
        return 0.5 * torch.where(inputs.steps_BS, log_ratio_BS, 0.0).square()
